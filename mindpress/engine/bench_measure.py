"""Runs of several models in turn, each under the same requests."""

from collections.abc import Callable, Iterable, Sequence

import torch

from mindpress.engine.bench_figures import Measured, Run, gaps_of, measured, run_of
from mindpress.engine.bench_runners import Runner, RuntimeRunner
from mindpress.engine.bench_settings import Bench, Load
from mindpress.engine.bench_workload import Tokens, Workload, warm_ups, workloads
from mindpress.engine.memory import PeakMemory
from mindpress.engine.runtime import Runtime


def _nobody(side: int, run: Run) -> None:
    """For callers that do not care."""


def in_turn(
    runners: Sequence[tuple[Runner, int]],
    works: Iterable[Workload],
    device: torch.device,
    done: Callable[[int, Run], None] = _nobody,
) -> list[Measured]:
    """Each of `works` by the first runner, then by the next one, and so on: A B A B.

    With each runner stand the bytes that it holds already; peaks include them. `done` hears which
    of them finished a run.
    """
    runs: list[list[Run]] = [[] for _ in runners]
    gaps: list[list[float]] = [[] for _ in runners]
    for work in works:
        for side, (runner, held) in enumerate(runners):
            with PeakMemory(device) as peak:
                traces = runner.run(work)
            runs[side].append(run_of(traces, held + peak.bytes))
            gaps[side] += gaps_of(traces)
            done(side, runs[side][-1])
    return [measured(own, between) for own, between in zip(runs, gaps, strict=True)]


def measure_runtime(runtime: Runtime, settings: Bench, load: Load) -> Measured:
    """The figures of a model in memory under one load, with random prompts.

    Of `settings` the lengths, warm-up, repeats and seed count. Peak memory is above what is held
    when a run begins. ConfigError when a request does not fit the runtime's limits.
    """
    settings.check_room(runtime.limits.session_len, "a sequence of the runtime")
    tokens, runner = Tokens(runtime.decoder.shape.vocab), RuntimeRunner(runtime)
    for work in warm_ups(settings, load, tokens):
        runner.run(work)
    works = workloads(settings, load, tokens)
    return in_turn([(runner, 0)], works, runtime.decoder.device)[0]
