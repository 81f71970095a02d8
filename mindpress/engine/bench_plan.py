"""What a measurement of speed will do, and the memory it takes, before any weight is read."""

from dataclasses import dataclass
from typing import Any

from mindpress.device import choose_device
from mindpress.engine.bench_report import check_folder
from mindpress.engine.bench_settings import TRANSFORMERS, Bench
from mindpress.engine.bench_subjects import find_subjects, find_tokens
from mindpress.engine.report_files import plain
from mindpress.engine.runtime_plan import RuntimePlan, plan_runtime
from mindpress.events import Listener, ignore
from mindpress.sources.opening import open_source


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """Models that stand in memory together, and how many runs of each count. `peak_memory_bytes` is
    a bound on what they add to the bare process; None beside transformers, whose is not known.
    """

    models: tuple[RuntimePlan, ...]
    against: str | None
    runs: int
    peak_memory_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return plain(self)


def plan_bench(settings: Bench, listener: Listener = ignore) -> BenchPlan:
    """Check what `bench` checks before it reads weights, and say what it will do."""
    if settings.output is not None:
        check_folder(settings.output)
    subjects = find_subjects(settings, choose_device(settings.engine.device))
    find_tokens(settings, subjects, listener)
    models: list[RuntimePlan] = []
    for subject in subjects:
        if subject.path.startswith(TRANSFORMERS):
            continue  # what transformers takes is its own
        beside = sum(plan.weight_bytes + plan.cache_bytes for plan in models)
        source = open_source(subject.folder)
        plan = plan_runtime(subject.folder, source, settings.running, listener, beside=beside)
        models.append(plan)
    total = sum(plan.peak_memory_bytes for plan in models)
    return BenchPlan(
        models=tuple(models),
        against=settings.against,
        runs=len(settings.loads) * settings.repeats,
        peak_memory_bytes=total if len(models) == len(subjects) else None,
    )
