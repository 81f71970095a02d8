import re

import pytest

from mindpress.cli.console import Console
from mindpress.cli.progress import Progress, counted
from mindpress.events import Advanced, Finished, Note, Started


def spoken(capsys, *events, quiet=False):
    with Progress(Console(quiet=quiet)) as listener:
        for event in events:
            listener(event)
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


def test_off_a_terminal_each_step_with_figures_is_a_line(capsys):
    start, first, last, end = spoken(
        capsys,
        Started("quantize", 2),
        Advanced(1, "scaled", {"query": 0.0123}),
        Advanced(2, "rounded", {"query": 0.5}),
        Finished(75.0),
    )
    assert start == "quantize: 2 layers"
    assert first.startswith("layer 1 of 2: scaled, query 0.0123; about ")
    assert " left, memory " in first
    assert ", at most " in first
    assert last.startswith("layer 2 of 2: rounded, query 0.5000; memory ")
    assert end == "quantize: 2 layers in 1 min 15 s"


def test_many_small_steps_are_not_a_line_each(capsys):
    steps = [Advanced(done, "tensor") for done in range(1, 500)]
    assert len(spoken(capsys, Started("check", 500, "tensor"), *steps)) < 5


def test_notes_and_warnings_are_told_apart(capsys):
    assert spoken(capsys, Note("512 is used"), Note("left in 16 bits", "warning")) == [
        "note: 512 is used", "warning: left in 16 bits"]  # fmt: skip


def test_quiet_says_only_warnings(capsys):
    events = (Started("work", 1), Advanced(1, "x", {"e": 1.0}), Note("n"), Note("w", "warning"))
    assert spoken(capsys, *events, Finished(1.0), quiet=True) == ["warning: w"]


@pytest.mark.parametrize(("total", "words"), [(1, "1 layer"), (0, "0 layers"), (2, "2 layers")])
def test_units_are_counted(total, words):
    assert counted(total, "layer") == words


def test_steps_without_a_beginning_are_no_error(capsys):
    assert spoken(capsys, Advanced(3, "x", {"e": 1.0}), Finished(1.0))[0].startswith("step 3: x")


def test_a_terminal_shows_a_live_table_and_keeps_only_the_end(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    said = spoken(
        capsys, Started("quantize", 3), Advanced(1, "scaled", {"query": 0.0123}), Finished(75.0)
    )
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(said))
    assert "quantize" in shown
    assert "layer 2 of 3" in shown
    assert re.search(r"about .* left, memory .*iB, at most .*iB", shown)
    assert re.search(r"1 +scaled +0\.0123", shown)
    assert shown.splitlines()[-1].endswith("quantize: 3 layers in 1 min 15 s")


@pytest.mark.parametrize(("method", "words"), [
    ("plain rounding", "kept plain rounding; error 0.00609, query 0.5000;"),
    ("scaled", "kept scaled; error 0.00609 (plain rounding 0.0070), query 0.5000;"),
])  # fmt: skip
def test_a_choice_is_told_with_what_it_beats(capsys, method, words):
    figures = {"error": 0.00609, "plain rounding": 0.007, "query": 0.5}
    _, line = spoken(capsys, Started("quantize", 2), Advanced(1, method, figures))
    assert words.replace("0.0070", "0.007") in line


def test_a_narrow_terminal_shows_whole_columns(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    sites = {f"self_attn.o_proj {number}": 0.5 for number in range(8)}
    figures = {"error": 0.0046, "plain rounding": 0.0058, **sites}
    said = spoken(
        capsys, Started("quantize", 3), Advanced(1, "scaled + clipped", figures), Finished(75.0)
    )
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "\n".join(said))
    assert re.search(r"layer +kept +error +plain *$", shown, re.MULTILINE)
    assert re.search(r"1 +scaled \+ clipped +0\.0046 +0\.0058 *$", shown, re.MULTILINE)
