"""The figures of a run and of several, by hand."""

import pytest

from mindpress.engine.bench_figures import (
    FIGURES,
    Run,
    Spread,
    Trace,
    measured,
    percentile,
    run_of,
    times_better,
)


def test_figures_of_a_run_by_hand():
    """Two requests begin together, are read for 2 s, write 2 tokens each until 5 s."""
    one = Trace(30, 10.0, (11.5, 13.0, 15.0))
    other = Trace(10, 10.0, (12.0, 13.0, 15.0))
    run = run_of([one, other], 77)
    found = run.figures
    assert run.seconds == 5.0
    assert found["prefill_tokens_per_second"] == 40 / 2
    assert found["decode_tokens_per_second"] == pytest.approx(4 / 3)
    assert found["output_tokens_per_second"] == 6 / 5
    assert found["requests_per_second"] == 2 / 5
    assert found["first_token_ms_mean"] == 1750
    assert found["first_token_ms_p50"] == 1750
    assert found["first_token_ms_p99"] == pytest.approx(1995)
    # gaps 1.5, 2, 1, 2 s
    assert found["between_tokens_ms_mean"] == 1625
    assert found["between_tokens_ms_p50"] == 1750
    assert found["between_tokens_ms_p90"] == 2000
    assert found["peak_memory_bytes"] == 77
    assert set(found) == {figure.name for figure in FIGURES}


def test_what_is_written_while_others_are_read_is_not_decode():
    first = Trace(8, 0.0, (1.0, 2.0, 3.0, 4.0))
    second = Trace(6, 2.0, (3.0, 4.0))  # is read while the third token of the first comes
    found = run_of([first, second], 0).figures
    assert found["prefill_tokens_per_second"] == 14 / 2
    assert found["decode_tokens_per_second"] == 3 / 2  # at 2, and two at 4
    assert found["output_tokens_per_second"] == 6 / 4


def test_reading_within_the_reading_of_another_counts_once():
    long, short = Trace(9, 0.0, (3.0, 5.0)), Trace(3, 1.0, (2.0, 2.5))
    found = run_of([long, short], 0).figures
    assert found["prefill_tokens_per_second"] == 12 / 3
    assert found["decode_tokens_per_second"] == 1 / 2


def test_answers_of_one_token_have_nothing_between_them():
    found = run_of([Trace(8, 0.0, (2.0,))], 0)
    assert found.figures["decode_tokens_per_second"] is None
    assert found.figures["between_tokens_ms_p50"] is None
    assert found.figures["prefill_tokens_per_second"] == 4
    whole = measured([found], [])
    assert whole.figures["between_tokens_ms_p50"] is None
    assert whole.between_tokens_ms == ()
    assert times_better([found], [found])["decode_tokens_per_second"] is None


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (50, 3), (90, 4.6), (99, 4.96), (100, 5), (12.5, 1.5)]
)
def test_percentiles_lie_on_a_line_between_values(percent, value):
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], percent) == pytest.approx(value)


def run_with(speed, time):
    values = {figure.name: speed if figure.more_is_better else time for figure in FIGURES}
    return Run(1.0, 0, values)


def test_runs_are_told_by_their_middle_and_their_spread():
    runs = [run_with(speed, 2.0) for speed in (5.0, 1.0, 2.0)]
    found = measured(runs, [0.004, 0.002])
    assert found.figures["decode_tokens_per_second"] == Spread(2.0, 1.0, 5.0)
    assert found.figures["first_token_ms_p50"] == Spread(2.0, 2.0, 2.0)
    assert len(found.between_tokens_ms) == 99
    assert found.between_tokens_ms[49] == pytest.approx(3.0)
    assert found.runs == tuple(runs)


def test_better_is_above_one_for_speeds_and_for_times_pair_by_pair():
    ours = [run_with(20.0, 4.0), run_with(30.0, 1.0), run_with(10.0, 1.0)]
    theirs = [run_with(10.0, 2.0), run_with(10.0, 2.0), run_with(10.0, 2.0)]
    times = times_better(ours, theirs)
    for name in ("prefill_tokens_per_second", "requests_per_second"):
        assert times[name] == Spread(2.0, 1.0, 3.0)
    for name in ("first_token_ms_p99", "between_tokens_ms_mean", "peak_memory_bytes"):
        assert times[name] == Spread(2.0, 0.5, 2.0)
