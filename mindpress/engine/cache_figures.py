"""What a cache of 16, 8 or 4 bits costs, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mindpress.engine.cache_plan import CachePlan, online_plan, plan_cache
from mindpress.engine.decoder import Decoder
from mindpress.engine.perplexity import Score, Windows, score_windows
from mindpress.sources.source import ModelSource

# Enough to tell caches apart; all of a text would take as long as scoring it three times more.
TOKENS = 32768
SIXTEEN_BITS = {"bfloat16": torch.bfloat16}


Scorer = Callable[..., Score]


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """One kind of cache on `windows` windows of the first text.

    `share` is its bytes against a 16-bit cache. `kl_divergence` (nats) and `top1_agreement` are
    against the original; where there is none, against the model itself with a cache as exact as
    it computes. `longest_context` is in tokens that fit the memory asked about.
    """

    cache: str
    bytes_per_token: int
    share: float
    perplexity: float
    kl_divergence: float
    top1_agreement: float
    longest_context: int
    windows: int


def cache_plans(source: ModelSource) -> list[CachePlan]:
    """16 bits first, then what the workspace was calibrated for, then int8 and int4 per token."""
    sixteen = CachePlan(dtype=SIXTEEN_BITS.get(source.shape.dtype, torch.float16))
    if source.shape.head_dim % 2:
        return [sixteen]
    own = plan_cache(source, None)
    online = [online_plan(bits, source.shape.head_dim) for bits in (8, 4)]
    calibrated = [own] if own.scales and own not in online else []
    return [sixteen, *calibrated, *online]


def measure_caches(
    decoder: Decoder,
    plans: Sequence[CachePlan],
    windows: Windows,
    original: Decoder | None,
    memory: int,
    score: Scorer = score_windows,
) -> tuple[CacheFigures, ...]:
    """Score TOKENS tokens with each cache; `memory` in bytes is what contexts must fit.

    `score` is given a `name` for each. Peak memory: what `score_windows` says, and a cache of the
    windows of one forward.
    """
    some = windows[: max(1, TOKENS // windows.shape[1])]
    exact = original or decoder.with_cache(CachePlan())
    shape = decoder.shape
    sixteen = 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim
    figures = []
    for plan in plans:
        name, one = plan.describe(decoder.dtype), decoder.with_cache(plan)
        found = score(one, some, exact, name=f"cache {name}")
        size = one.new_cache().bytes_per_token
        figures.append(
            CacheFigures(
                cache=name,
                bytes_per_token=size,
                share=size / sixteen,
                perplexity=found.perplexity,
                kl_divergence=found.divergence or 0.0,
                top1_agreement=found.agreement or 0.0,
                longest_context=memory // size,
                windows=len(some),
            )
        )
    return tuple(figures)
