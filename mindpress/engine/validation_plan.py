"""What a validation or a comparison will measure, and the memory it takes, before any weight is
read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mindpress.device import choose_device
from mindpress.engine.config import EngineConfig
from mindpress.engine.footprint import loading_bytes, weight_bytes
from mindpress.engine.machine import device_name
from mindpress.engine.perplexity import scoring_bytes
from mindpress.engine.report_files import plain
from mindpress.engine.validation_steps import Subject, Text
from mindpress.memory import bound_of


@dataclass(frozen=True, slots=True)
class PlannedText:
    """A text that will be scored."""

    dataset: str
    windows: int
    of_windows: int | None
    length: int


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """What will be measured. `peak_memory_bytes` is a bound on what the run adds to the bare
    process: on a GPU, to what is there.
    """

    models: tuple[str, ...]
    against: str | None
    texts: tuple[PlannedText, ...]
    device: str
    peak_memory_bytes: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return plain(self)


def plan_of(
    engine: EngineConfig,
    models: Sequence[Subject],
    original: Subject | None,
    texts: Sequence[Text],
    notes: Sequence[str],
    *,
    caches: bool,
) -> ValidationPlan:
    """The plan of models that were opened and texts that were read. One of the models is in memory
    at a time, beside the original. With `caches` a model is compared with itself, too.
    """
    sources = [model.source for model in models]
    others = [] if original is None else [original.source]
    most = max(weight_bytes(source, engine) for source in sources)
    most += sum(weight_bytes(source, engine) for source in others)
    compared = caches or original is not None
    scoring = max(
        scoring_bytes(source.shape, text.windows, compared=compared)
        for source in sources
        for text in texts
    )
    loading = max(loading_bytes(source) for source in [*sources, *others])
    return ValidationPlan(
        models=tuple(model.path for model in models),
        against=None if original is None else original.path,
        texts=tuple(
            PlannedText(text.dataset, len(text.windows), text.available, text.windows.shape[1])
            for text in texts
        ),
        device=device_name(choose_device(engine.device)),
        peak_memory_bytes=bound_of(most + max(loading, scoring)),
        notes=tuple(notes),
    )
