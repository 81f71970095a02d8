"""When tokens came -> figures of a run; figures of several runs -> their middle and spread."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from statistics import mean, median

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run: its name in JSON, and what people read.

    `more_is_better` of speeds; of times and memory less is.
    """

    name: str
    label: str
    unit: str
    more_is_better: bool


def _times(name: str, label: str) -> tuple[Figure, ...]:
    parts = ["mean", *(f"p{percent}" for percent in PERCENTILES)]
    return tuple(Figure(f"{name}_ms_{part}", f"{label}, {part}", "ms", False) for part in parts)


FIGURES = (
    Figure("prefill_tokens_per_second", "prefill", "tokens/s", True),
    Figure("decode_tokens_per_second", "decode", "tokens/s", True),
    Figure("output_tokens_per_second", "output in all", "tokens/s", True),
    Figure("requests_per_second", "requests", "1/s", True),
    *_times("first_token", "first token"),
    *_times("between_tokens", "between tokens"),
    Figure("peak_memory_bytes", "peak memory", "bytes", False),
)


@dataclass(frozen=True, slots=True)
class Trace:
    """One request: tokens of its prompt, when it was handed over, and when each of its tokens came.

    In seconds of one clock for all requests of a run. `reused` tokens of the prompt were in the
    cache already.
    """

    prompt: int
    begun: float
    tokens: tuple[float, ...]
    reused: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several values, the least and the most of them."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run by their names in FIGURES (None: there is nothing to tell, as of the
    time between tokens of answers of one token), its length, and tokens found in the cache."""

    seconds: float
    reused_tokens: int
    figures: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One model under one load: its runs in order, and the middles of their figures.

    `between_tokens_ms` are the 1st to the 99th percentile over all runs; empty without such times.
    """

    figures: dict[str, Spread | None]
    runs: tuple[Run, ...]
    between_tokens_ms: tuple[float, ...]


def run_of(traces: Sequence[Trace], memory: int) -> Run:
    """The figures of one run; `memory` is its peak in bytes.

    Reading is whenever some request waits for its first token, writing is all other time. Prefill
    is all tokens of prompts by the time of reading; decode is the tokens that came while nothing
    was read by the time of writing. With requests of unequal length answers also go on while
    others' prompts are read: then prefill is less than what prompts alone would reach.
    """
    begun = min(trace.begun for trace in traces)
    seconds = max(trace.tokens[-1] for trace in traces) - begun
    reading = _joined([(trace.begun, trace.tokens[0]) for trace in traces])
    read = sum(end - begin for begin, end in reading)
    written = [token for trace in traces for token in trace.tokens[1:]]
    alone = sum(not _within(token, reading) for token in written)
    figures = {
        "prefill_tokens_per_second": _by(sum(trace.prompt for trace in traces), read),
        "decode_tokens_per_second": _by(alone, seconds - read) if alone else None,
        "output_tokens_per_second": _by(len(written) + len(traces), seconds),
        "requests_per_second": _by(len(traces), seconds),
        **_summary("first_token", [trace.tokens[0] - trace.begun for trace in traces]),
        **_summary("between_tokens", gaps_of(traces)),
        "peak_memory_bytes": float(memory),
    }
    return Run(seconds, sum(trace.reused for trace in traces), figures)


def gaps_of(traces: Sequence[Trace]) -> list[float]:
    """Seconds from each token to the next of the same request."""
    return [later - token for trace in traces for token, later in pairwise(trace.tokens)]


def measured(runs: Sequence[Run], gaps: Sequence[float]) -> Measured:
    """All `runs` of one model under one load; `gaps` are the seconds between tokens in them."""
    figures = {
        figure.name: spread([run.figures[figure.name] for run in runs]) for figure in FIGURES
    }
    ordered = sorted(gaps)
    percentiles = [1000 * percentile(ordered, percent) for percent in range(1, 100) if ordered]
    return Measured(figures, tuple(runs), tuple(percentiles))


def times_better(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Spread | None]:
    """How many times better ours is: of speeds ours / theirs, of times and memory theirs / ours.

    Run by run, so that what slows the machine for a while slows both of a pair.
    """
    ratios: dict[str, Spread | None] = {}
    for figure in FIGURES:
        pairs = [
            (a.figures[figure.name], b.figures[figure.name])
            for a, b in zip(ours, theirs, strict=True)
        ]
        ratios[figure.name] = spread(
            [_ratio(a, b) if figure.more_is_better else _ratio(b, a) for a, b in pairs]
        )
    return ratios


def spread(values: Sequence[float | None]) -> Spread | None:
    """None when there is not a single value."""
    there = [value for value in values if value is not None]
    return Spread(median(there), min(there), max(there)) if there else None


def percentile(ordered: Sequence[float], percent: int | float) -> float:
    """Of values in ascending order, at least one; in between two of them on a straight line."""
    place = (len(ordered) - 1) * percent / 100
    low, high = ordered[floor(place)], ordered[ceil(place)]
    return low + (high - low) * (place - floor(place))


def _summary(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    ordered = [1000 * value for value in sorted(seconds)]
    values = {"mean": mean(ordered) if ordered else None}
    for percent in PERCENTILES:
        values[f"p{percent}"] = percentile(ordered, percent) if ordered else None
    return {f"{name}_ms_{part}": value for part, value in values.items()}


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same times as spans that do not overlap, in order."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def _within(moment: float, spans: Sequence[tuple[float, float]]) -> bool:
    """Whether it is after the beginning and not after the end of one of them, in order."""
    place = bisect_left(spans, (moment,)) - 1
    return place >= 0 and moment <= spans[place][1]


def _by(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
