"""How long a launch takes on a GPU when its weights come from memory, as those of a model do.

Many launches, each with another copy of the weights, are captured in one CUDA graph: copies
together exceed the second-level cache, so that none is found there by the next replay, and nothing
of the host's is between launches. Replays are queued ahead of the device, events around them.

Without a GPU launches are called one by one, which tries the code and measures nothing.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch
from triton.runtime.errors import OutOfResources

Launch = Callable[[], object]
Item = TypeVar("Item")

# Copies are so many times as large as the cache: it does not throw out the oldest strictly.
CACHES = 4
LEAST_LAUNCHES = 16  # of a graph: its own start is a launch's time
LEAST_TURN = 0.2  # milliseconds between two events, whose own error is about a microsecond
LONGEST = 1000.0  # milliseconds of all turns
FEWEST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Captured:
    """So many launches that `replay` does again, on `device`."""

    replay: Callable[[], None]
    launches: int
    device: torch.device


def capability_of(device: torch.device) -> int:
    """As 90 for 9.0; 80 where kernels are interpreted."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def copies_to_rotate(nbytes: int, device: torch.device) -> int:
    """How many copies of so many bytes are read from memory each time their turn comes."""
    if device.type != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, -(-CACHES * cache // max(1, nbytes)))


def rotated(copies: Sequence[Item], device: torch.device) -> list[Item]:
    """All copies in turn, as often as makes a graph that is long enough."""
    turns = -(-LEAST_LAUNCHES // len(copies)) if device.type == "cuda" else 1
    return list(copies) * turns


def captured(launches: Sequence[Launch], device: torch.device) -> Captured:
    """One graph of all launches, each of which runs once before: that compiles it.

    Raises what a launch raises, such as Triton's OutOfResources. Memory: what launches return.
    """
    if device.type != "cuda":
        return Captured(lambda: _run(launches), len(launches), device)
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            _run(launches)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with _nothing_collected(), torch.cuda.graph(graph):
            _run(launches)
    return Captured(graph.replay, len(launches), device)


def medians(runs: Sequence[Captured], rounds: int = 20) -> list[float]:
    """Milliseconds of a launch of each, the median of `rounds` rounds in which all take turns.

    `runs` are of one device. Fewer rounds, 5 at least, where all of them take more than a second.
    """
    for run in runs:
        run.replay()
    once = [_finished(run, [_turn(run, 1)])[0] * run.launches for run in runs]
    repeats = [max(1, math.ceil(LEAST_TURN / max(turn, 1e-3))) for turn in once]
    whole = sum(turn * repeat for turn, repeat in zip(once, repeats, strict=True))
    if runs[0].device.type != "cuda":
        return [turn / run.launches for turn, run in zip(once, runs, strict=True)]
    rounds = min(rounds, max(FEWEST_ROUNDS, int(LONGEST / whole)))
    turns: list[list[Callable[[], float]]] = [[] for _ in runs]
    for run in runs:
        run.replay()  # while it runs, what follows is queued
    for _ in range(rounds):
        for own, run, repeat in zip(turns, runs, repeats, strict=True):
            own.append(_turn(run, repeat))
    return [median(_finished(run, own)) for run, own in zip(runs, turns, strict=True)]


def milliseconds(launches: Sequence[Launch], device: torch.device, rounds: int = 7) -> float:
    """Of one launch; infinite where it needs more registers or shared memory than there are."""
    try:
        return medians([captured(launches, device)], rounds)[0]
    except OutOfResources:
        return math.inf


def _run(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch()


def _turn(run: Captured, repeats: int) -> Callable[[], float]:
    """Replay so often; what is returned knows, once that is done, the milliseconds of a launch."""
    count = repeats * run.launches
    if run.device.type != "cuda":
        begun = time.perf_counter()
        run.replay()
        passed = 1e3 * (time.perf_counter() - begun)
        return lambda: passed / count
    with torch.cuda.device(run.device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run.replay()
        end.record()
    return lambda: begin.elapsed_time(end) / count


def _finished(run: Captured, turns: Sequence[Callable[[], float]]) -> list[float]:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return [turn() for turn in turns]


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """A kernel that is collected unloads its module, which ends a capture."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
