import math

import pytest

from mindpress.report.numbers import counted, duration, number, percent, size


@pytest.mark.parametrize(("value", "words"), [
    (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (6822424, "6.5 MiB"), (5 * 2**40, "5.0 TiB"),
    (2**60, "1048576.0 TiB"),
])  # fmt: skip
def test_sizes(value, words):
    assert size(value) == words


@pytest.mark.parametrize(("value", "words"), [
    (0.012, "12 ms"), (0.44, "0.4 s"), (42.3, "42 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"),
    (7500, "2 h 05 min"),
])  # fmt: skip
def test_durations(value, words):
    assert duration(value) == words


@pytest.mark.parametrize(("value", "words"), [
    (None, "–"), (4, "4"), (12345, "12,345"), (0.0, "0"), (63.314, "63.31"), (1234.5, "1,234"),
    (0.0033, "0.0033"), (0.98765, "0.9877"), (7e-8, "7.00e-08"), (math.nan, "nan"),
    (-2.5, "-2.500"),
])  # fmt: skip
def test_numbers(value, words):
    assert number(value) == words


def test_percentages():
    assert percent(0.9876) == "98.8 %"


def test_one_thing_and_several():
    assert (counted(1, "thread"), counted(2, "thread"), counted(0, "thread")) == (
        "1 thread", "2 threads", "0 threads",
    )  # fmt: skip
