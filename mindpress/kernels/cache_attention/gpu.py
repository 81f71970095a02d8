"""Attention over a cache in pages on a GPU, in one launch or two.

A program has a tile of rows of one sequence and the heads of one kv head, whose keys and values
it reads once (Ainslie et al. 2023, "GQA"); programs share a long past and a second launch merges
what they found (Dao et al. 2023, "Flash-Decoding"). The softmax is accumulated (Dao 2023,
"FlashAttention-2", section 3.1) in base 2. Codes enter the tensor cores as they are: scales and
lows are applied to scores and weights, or to the query where they belong to channels.

Decoding reads the pages of the visible past once, which is what limits it: (bits / 4 * channels
+ scales) bytes for a token and kv head. Lane instructions per byte of codes are held by
tests/kernels/test_triton_cache_compiled.py; an H200 can issue 7.9 at its memory's speed.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.errors import ConfigError
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_attention.kernel import attend_kernel, merge_kernel
from mindpress.kernels.cache_attention.launch import AttendConfig, AttendShape, default_config
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring
from mindpress.kernels.interpreted import interpreted

Rows = Float[Tensor, "rows heads channels"]
SMALLEST_PAGE = 16
FLOATS = (torch.float16, torch.bfloat16)


def attend_pages_triton(
    query: Rows,
    keys: CachePages,
    values: CachePages,
    batch: PagedBatch,
    scoring: Scoring,
    config: AttendConfig | None = None,
) -> Rows:
    """`attend_pages_reference` for pages in the layout of GPUs; decoding and prompts alike.

    Keys lie by token, values by channel; pages have 16, 32, 64 or 128 tokens; both are float16,
    bfloat16, or codes of as many bits. Computed in float16 with sums in float32 (bfloat16 pages: in
    bfloat16); the query is divided by a power of 2 near its largest number first, so that one of
    bfloat16 cannot overflow. Rows of no sequence are left as memory was, as are those of a
    sequence shorter than its rows. Workspace: parts * rows * heads * (channels + 2) float32.
    Raises ConfigError for other layouts. Pages of 128 tokens with heads of 256 floats do not fit
    the shared memory (99 KiB) of capabilities 8.6, 8.9 and 12.0.
    """
    _check(query, keys, values)
    query = query.contiguous()
    mixed = torch.empty_like(query)
    if query.numel() == 0 or batch.most_rows == 0 or batch.longest == 0:
        return mixed
    shape = _shape(query, keys, batch, scoring)
    config = config or default_config(_capability(query.device), shape)
    size = (config.parts, *query.shape[:2]) if config.parts > 1 else (0, 0, 0)
    sums = query.new_empty((*size, query.shape[2]), dtype=torch.float32)
    states = query.new_empty((*size, 2), dtype=torch.float32)
    into = mixed, sums, states
    _launch(query, (keys, values), batch, scoring, into, (config, shape))
    if config.parts > 1:
        _merge(mixed, sums, states, batch)
    return mixed


def _launch(
    query: Rows,
    pages: tuple[CachePages, CachePages],
    batch: PagedBatch,
    scoring: Scoring,
    into: tuple[Tensor, Tensor, Tensor],
    plan: tuple[AttendConfig, AttendShape],
) -> None:
    (keys, values), (config, shape) = pages, plan
    tiles = -(-shape.most_rows * shape.group // config.rows)
    launch: Any = attend_kernel  # Triton adds arguments of its own
    launch[(tiles * shape.kv_heads, shape.sequences, config.parts)](
        query,
        *_operands(keys, shape.channels),
        *_operands(values, shape.page),
        batch.starts,
        batch.lengths,
        batch.table,
        *into,
        scoring.scale,
        scoring.cap or 0.0,
        scoring.window or 0,
        batch.table.stride(0),
        query.shape[0] * query.shape[1],
        KV_HEADS=shape.kv_heads,
        GROUP=shape.group,
        CHANNELS=shape.channels,
        PADDED=_power_of_2(shape.channels),
        PAGE=shape.page,
        BITS=shape.bits,
        CAPPED=scoring.cap is not None,
        WINDOWED=scoring.window is not None,
        KEY_FIXED=keys.fixed,
        KEY_VARY=_vary(keys),
        KEY_LOWS=keys.low is not None,
        VALUE_FIXED=values.fixed,
        VALUE_VARY=_vary(values),
        VALUE_LOWS=values.low is not None,
        BLOCK=config.block,
        ROWS=config.rows,
        FOLD=config.fold,
        STAGES=config.stages,
        SPLIT=config.parts > 1,
        INTERPRETED=interpreted(attend_kernel),
        num_warps=config.warps,
        num_stages=config.stages,
    )


def _operands(pages: CachePages, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Data (codes as words of 32 bits where rows are made of such), scales, lows."""
    data = pages.data
    if pages.spec is None or pages.scale is None:
        return data, data, data
    if width * pages.spec.bits % 32 == 0:
        data = data.view(torch.int32)
    low = pages.low
    if low is None:
        low = -pages.spec.middle * pages.scale if pages.fixed else pages.scale
    return data, pages.scale, low


def _vary(pages: CachePages) -> bool:
    return pages.fixed and pages.scale is not None and pages.scale.shape[1] > 1


def _merge(mixed: Rows, sums: Tensor, states: Tensor, batch: PagedBatch) -> None:
    rows, heads, channels = mixed.shape
    parts = len(sums)
    launch: Any = merge_kernel
    launch[(batch.most_rows * heads, len(batch.lengths))](
        sums,
        states,
        batch.starts,
        batch.lengths,
        mixed,
        rows * heads,
        HEADS=heads,
        CHANNELS=channels,
        PADDED=_power_of_2(channels),
        PARTS=parts,
        PADDED_PARTS=_power_of_2(parts),
        num_warps=1 if channels * parts <= 2048 else 4,
    )


def _shape(query: Rows, keys: CachePages, batch: PagedBatch, scoring: Scoring) -> AttendShape:
    longest = batch.longest
    if scoring.window is not None:
        longest = min(longest, scoring.window + batch.most_rows)
    return AttendShape(
        bits=16 if keys.spec is None else keys.spec.bits,
        channels=query.shape[2],
        page=keys.shape.tokens,
        group=query.shape[1] // keys.shape.kv_heads,
        kv_heads=keys.shape.kv_heads,
        sequences=len(batch.lengths),
        most_rows=batch.most_rows,
        longest=longest,
    )


def _capability(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _power_of_2(number: int) -> int:
    """The least that is no smaller, and 16 at least: what a tensor core multiplies."""
    return max(16, 1 << (number - 1).bit_length())


def _check(query: Rows, keys: CachePages, values: CachePages) -> None:
    tokens = keys.shape.tokens
    if keys.shape.by_channel or not values.shape.by_channel:
        raise ConfigError("pages of keys lie by token, those of values by channel on a GPU")
    if tokens < SMALLEST_PAGE or tokens & (tokens - 1):
        raise ConfigError(
            f"pages of {tokens} tokens: a GPU takes powers of 2 from {SMALLEST_PAGE} on",
            hint="use 64",
        )
    types = keys.data.dtype, values.data.dtype
    if keys.spec is None and types not in ((kind, kind) for kind in FLOATS):
        raise ConfigError(
            f"keys of {types[0]} and values of {types[1]}",
            hint="both as float16 or both as bfloat16",
        )
    if (keys.spec and keys.spec.bits) != (values.spec and values.spec.bits):
        raise ConfigError("keys and values have the same number of bits")
    if query.shape[1] % keys.shape.kv_heads or query.shape[2] != keys.shape.channels:
        raise ConfigError(
            f"queries of {tuple(query.shape)} for {keys.shape.kv_heads} kv heads"
            f" of {keys.shape.channels} channels"
        )
