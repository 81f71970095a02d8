"""What a validation or a comparison will measure, and the memory it takes, before any weight is
read."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from mindpress.device import choose_device
from mindpress.engine.config import EngineConfig
from mindpress.engine.linear import Placement
from mindpress.engine.loader import DTYPES, choose_dtype, needed_bytes
from mindpress.engine.machine import device_name
from mindpress.engine.perplexity import scoring_bytes
from mindpress.engine.report_files import plain
from mindpress.engine.validation_steps import Subject, Text
from mindpress.kernels.dispatch import choose_kernels
from mindpress.models.tensors import block_tensors
from mindpress.sources.source import ModelSource


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
    most = max(_held(source, engine) for source in sources)
    most += sum(_held(source, engine) for source in others)
    compared = caches or original is not None
    scoring = max(
        scoring_bytes(source.shape, text.windows, compared=compared)
        for source in sources
        for text in texts
    )
    loading = max(_loading(source) for source in [*sources, *others])
    return ValidationPlan(
        models=tuple(model.path for model in models),
        against=None if original is None else original.path,
        texts=tuple(
            PlannedText(text.dataset, len(text.windows), text.available, text.windows.shape[1])
            for text in texts
        ),
        device=device_name(choose_device(engine.device)),
        peak_memory_bytes=most + max(loading, scoring),
        notes=tuple(notes),
    )


def _held(source: ModelSource, engine: EngineConfig) -> int:
    """Bytes of a model's weights in memory."""
    device = choose_device(engine.device)
    dtype = choose_dtype(engine.dtype, source.shape.dtype, device)
    kernels = choose_kernels(engine.kernels, device, dtype)
    return needed_bytes(source, Placement(device, dtype, kernels, None, source.activations))


def _loading(source: ModelSource) -> int:
    """Bytes of what is read at a time: a layer, or the embedding, as it is stored (codes take
    less, with the byte for each weight that they are packed from).
    """
    shape = source.shape
    stored = DTYPES.get(shape.dtype, torch.float32).itemsize
    layer = sum(map(prod, block_tensors(source.architecture, shape).values()))
    return max(layer, shape.vocab * shape.hidden) * stored
