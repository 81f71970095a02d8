"""The memory that a model takes to answer, before any of its weights is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mindpress.engine.cache_plan import CachePlan, plan_cache
from mindpress.engine.config import EngineConfig
from mindpress.engine.footprint import loading_bytes, placement
from mindpress.engine.linear import Placement
from mindpress.engine.loader import check_format, check_memory, needed_bytes
from mindpress.engine.machine import device_name
from mindpress.engine.page_plan import plan_room
from mindpress.engine.report_files import plain
from mindpress.engine.reshaped import lengthened
from mindpress.events import Listener, ignore
from mindpress.kernels.paged import paged_operations
from mindpress.memory import bound_of
from mindpress.models.shape import ModelShape
from mindpress.sources.source import ModelSource

FLOAT32_BYTES = 4
# Of the vocabulary: its scores in float32, and while one token is drawn these sorted, with their
# places, as probabilities and summed up.
DRAWING_BYTES = 32
# Copies of a row's hidden states, and of what the MLP makes of it, that exist at once.
ROW_COPIES = 4


@dataclass(frozen=True, slots=True)
class RuntimePlan:
    """What a model takes to answer. `peak_memory_bytes` is a bound on what it adds to the bare
    process: on a GPU, to what is there.
    """

    model: str
    weight_bytes: int
    cache: str
    cache_bytes: int
    cache_tokens: int
    device: str
    peak_memory_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return plain(self)


@dataclass(frozen=True, slots=True)
class _Prospect:
    """What is known of a decoder before it is loaded."""

    shape: ModelShape
    cache_plan: CachePlan
    dtype: torch.dtype
    device: torch.device


def plan_runtime(
    path: Path,
    source: ModelSource,
    engine: EngineConfig,
    listener: Listener = ignore,
    *,
    beside: int = 0,
) -> RuntimePlan:
    """The plan of a model in one process, where `beside` bytes more are taken than now.

    Errors are those of loading it, but for what is wrong inside its weights.
    """
    check_format(source, engine.model_format)
    source = lengthened(source, engine.rope_scaling_factor)
    place = placement(source, engine)
    check_memory(source, place, beside)
    plan = plan_cache(source, engine.quant_policy, listener)
    prospect = _Prospect(source.shape, plan, place.dtype, place.device)
    operations, weights = paged_operations(place.kernels), needed_bytes(source, place)
    room = plan_room(prospect, engine, operations, beside + weights, listener)
    cache = room.pages * room.page_bytes
    step = _step_bytes(source, place, engine, room.longest)
    return RuntimePlan(
        model=str(path),
        weight_bytes=weights,
        cache=plan.describe(place.dtype),
        cache_bytes=cache,
        cache_tokens=room.pages * operations.page_tokens,
        device=device_name(place.device),
        peak_memory_bytes=bound_of(weights + max(loading_bytes(source), cache + step)),
    )


def _step_bytes(source: ModelSource, place: Placement, engine: EngineConfig, longest: int) -> int:
    """Of one step: activations of all rows, a matrix of codes as floats where many rows are
    multiplied with it, what attention holds of a sequence, and the scores of the next tokens.
    """
    shape, rows = source.shape, min(engine.max_prefill_token_num, engine.max_batch_size * longest)
    forward = rows * ROW_COPIES * (shape.hidden + shape.inner) * FLOAT32_BYTES
    widest = 0 if source.spec is None else 2 * shape.hidden * shape.inner * place.dtype.itemsize
    drawing = shape.vocab * (engine.max_batch_size * FLOAT32_BYTES + DRAWING_BYTES)
    return forward + widest + drawing + _attention_bytes(shape, place, rows, longest)


def _attention_bytes(shape: ModelShape, place: Placement, rows: int, longest: int) -> int:
    """Only the reference holds scores, beside keys and values of all heads of one sequence."""
    if place.kernels.name in ("cpu", "triton"):
        return 0
    scores = 3 * shape.heads * min(rows, longest) * longest
    return (scores + 4 * shape.heads * longest * shape.head_dim) * FLOAT32_BYTES
