"""Measure how fast a model answers, alone or in turn with another one."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from mindpress.device import choose_device
from mindpress.engine.bench_figures import Run, times_better
from mindpress.engine.bench_measure import in_turn
from mindpress.engine.bench_page import bench_page
from mindpress.engine.bench_report import BenchReport, LoadReport, check_folder, save
from mindpress.engine.bench_settings import Bench, Load
from mindpress.engine.bench_subjects import Loaded, find_subjects, find_tokens, into_memory
from mindpress.engine.bench_workload import Tokens, warm_ups, workload, workloads
from mindpress.engine.loader import choose_dtype
from mindpress.engine.machine import device_name, versions
from mindpress.engine.report_files import plain
from mindpress.events import Advanced, Finished, Listener, Started, ignore, noting
from mindpress.report.numbers import number

SIDES = ("this model", "the other")


def bench(settings: Bench, listener: Listener = ignore) -> BenchReport:
    """Measure every load, and save the report when `settings.output` names a folder.

    The output folder, models, lengths and text are checked before weights are read. Both models
    stand in memory together, and every run of one is followed by the same run of the other.
    """
    begun = time.perf_counter()
    notes, say = noting(listener)
    if settings.output is not None:
        check_folder(settings.output)
    device = choose_device(settings.engine.device)
    choose_dtype(settings.engine.dtype, "float32", device)
    subjects = find_subjects(settings, device)
    tokens = find_tokens(settings, subjects, say)
    if settings.engine.threads is not None:
        torch.set_num_threads(settings.engine.threads)
    warm = [work for each in settings.loads for work in warm_ups(settings, each, tokens)]
    with ExitStack() as stack:
        loaded: list[Loaded] = []
        for subject in subjects:
            loaded.append(into_memory(subject, warm, device, say))
            stack.callback(loaded[-1].runner.close)
        reports = _Measuring(settings, tokens, loaded, device).reports(say)
    report = BenchReport(
        kind=settings.kind,
        model=loaded[0].model,
        against=loaded[1].model if len(loaded) > 1 else None,
        loads=reports,
        device=device_name(device),
        threads=torch.get_num_threads(),
        seconds=time.perf_counter() - begun,
        versions=versions(),
        settings=_plain(settings),
        command=settings.command,
        notes=tuple(notes),
        folder=None if settings.output is None else str(settings.output),
    )
    if settings.output is not None:
        save(report, bench_page(report), settings.output)
    return report


@dataclass(frozen=True, slots=True)
class _Measuring:
    """What is measured, on which device, with models in memory."""

    settings: Bench
    tokens: Tokens
    loaded: Sequence[Loaded]
    device: torch.device

    def reports(self, say: Listener) -> tuple[LoadReport, ...]:
        """All loads in order."""
        begun, loads = time.perf_counter(), self.settings.loads
        say(Started("bench", len(loads) * self.settings.repeats * len(self.loaded), "run"))
        done = 0

        def tell(side: int, run: Run) -> None:
            nonlocal done
            done += 1
            speed = run.figures["output_tokens_per_second"]
            say(Advanced(done, f"{SIDES[side]} writes {number(speed)} tokens/s"))

        reports = tuple(self._report(load, tell) for load in loads)
        say(Finished(time.perf_counter() - begun))
        return reports

    def _report(self, load: Load, tell: Callable[[int, Run], None]) -> LoadReport:
        works = workloads(self.settings, load, self.tokens)
        like_all = workload(self.settings, load, self.tokens, 0)
        runners = [(one.runner, one.model.held_bytes) for one in self.loaded]
        ours, *others = in_turn(runners, works, self.device, tell)
        return LoadReport(
            requests=load.requests,
            at_once=load.at_once,
            prompt_tokens=like_all.prompt_tokens,
            answer_tokens=like_all.answer_tokens,
            model=ours,
            against=others[0] if others else None,
            times=times_better(ours.runs, others[0].runs) if others else None,
        )


def _plain(settings: Bench) -> dict[str, Any]:
    """The settings in JSON's types."""
    values = plain(replace(settings, engine=settings.running))
    del values["command"]
    return values
