"""Triton kernels of attention over a cache in pages; `gpu.py` says what they compute and read.

Everything is transposed: scores^T = K q^T and mixed^T = V^T p^T, so that keys and values, as they
lie in memory, are left operands of the tensor cores and their codes need not leave registers.
"""

from typing import no_type_check

import triton
import triton.language as tl

from mindpress.kernels.cache_attention.planes.kernel import tokens_of_rows
from mindpress.kernels.cache_attention.queries.kernel import members_of, query_planes, rows_of
from mindpress.kernels.cache_attention.sums.kernel import (
    gather,
    load_values,
    mixed_values,
    page_of,
    store_sums,
)
from mindpress.kernels.cache_attention.weights.kernel import (
    capped,
    exponentials,
    load_keys,
    products,
    visible,
)

LOG2E = tl.constexpr(1.4426950408889634)
# The largest score before any is seen: finite, so that its difference to -inf is no NaN.
LOWEST = tl.constexpr(-1e20)


@triton.jit
@no_type_check
def _blocks(earliest, latest, window, WINDOWED: tl.constexpr, BLOCK: tl.constexpr):
    """The first position that some row sees; the blocks of this part, and those that all see."""
    begin, all_begin = 0, 0
    if WINDOWED:
        begin = tl.maximum(earliest + 1 - window, 0)
        all_begin = tl.maximum(latest + 1 - window, 0)
    stop = tl.cdiv(latest + 1, BLOCK)
    share = tl.cdiv(stop - begin // BLOCK, tl.num_programs(2))
    first = begin // BLOCK + tl.program_id(2) * share
    last = tl.maximum(tl.minimum(first + share, stop), first)
    full = tl.minimum(tl.maximum(tl.cdiv(all_begin, BLOCK), first), last)
    full_end = tl.minimum(tl.maximum((earliest + 1) // BLOCK, full), last)
    return begin, first, last, full, full_end


@triton.jit
@no_type_check
def _block_of(turn, first, full, full_end, EDGE: tl.constexpr):
    """Of a turn of the loop: blocks before the full ones, then those after them."""
    block = full + turn
    if EDGE:
        block = tl.where(turn < full - first, first + turn, full_end + turn - (full - first))
    return block


@triton.jit
@no_type_check
def _of_head(pages, head, CHANNELS: tl.constexpr, KIND: tl.constexpr):
    """Data, and scales and lows of a head where they are fixed."""
    data, scales, lows = pages
    if KIND[1]:
        scales += head * (CHANNELS if KIND[2] else 1)
        lows += head * (CHANNELS if KIND[2] else 1)
    return data, scales, lows


@triton.jit(do_not_specialize=["window", "most_pages", "members"])
@no_type_check
def attend_kernel(  # noqa: PLR0913
    query, keys, key_scales, key_lows, values, value_scales, value_lows,
    starts, lengths, table, mixed, sums, states, scale, cap, window, most_pages, members,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr,
    PAGE: tl.constexpr, BITS: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    KEY_FIXED: tl.constexpr, KEY_VARY: tl.constexpr, KEY_LOWS: tl.constexpr,
    VALUE_FIXED: tl.constexpr, VALUE_VARY: tl.constexpr, VALUE_LOWS: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, FOLD: tl.constexpr, STAGES: tl.constexpr,
    SPLIT: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A tile of rows x group of a sequence and kv head, over a part of its past.

    Grid: tiles * kv heads, sequences, parts. `members` are rows * heads.
    """
    SHAPE: tl.constexpr = (CHANNELS, PADDED, PAGE, BLOCK)
    KEY: tl.constexpr = (BITS, KEY_FIXED, KEY_VARY, KEY_LOWS)
    VALUE: tl.constexpr = (BITS, VALUE_FIXED, VALUE_VARY, VALUE_LOWS)
    sequence, head = tl.program_id(1), tl.program_id(0) % KV_HEADS
    start, count, past = rows_of(starts, lengths, sequence)
    if (tl.program_id(0) // KV_HEADS * ROWS >= count * GROUP) | (past < 0):
        return
    kept, position, place, earliest, latest = members_of(start, past, count, KV_HEADS, GROUP, ROWS)
    begin, first, last, full, full_end = _blocks(earliest, latest, window, WINDOWED, BLOCK)
    k_pages = _of_head((keys, key_scales, key_lows), head, CHANNELS, KEY)
    v_pages = _of_head((values, value_scales, value_lows), head, CHANNELS, VALUE)
    TYPE: tl.constexpr = tl.float16 if BITS < 16 else keys.dtype.element_ty
    q, unit = query_planes(query, (place, kept), k_pages, TYPE, SHAPE, KEY)
    factor = unit * scale * (2.0 / cap if CAPPED else 1.0) * LOG2E
    token, highest = tokens_of_rows(BLOCK, PAGE, BITS), tl.full((ROWS,), LOWEST, tl.float32)
    gathered = tl.zeros((PADDED, ROWS), tl.float32)
    weights, low_sums = tl.zeros((FOLD, ROWS), tl.float32), tl.zeros((FOLD, ROWS), tl.float32)
    table += sequence.to(tl.int64) * most_pages
    for EDGE in tl.static_range(2):
        # Blocks that all rows see need no masks; the others come in a loop of their own.
        turns = full - first + last - full_end if EDGE else full_end - full
        for turn in tl.range(0, turns, num_stages=1 if EDGE else STAGES):
            block = _block_of(turn, first, full, full_end, EDGE)
            at = block * BLOCK + token
            read = (at >= begin) & (at <= latest)
            index = block * (BLOCK // PAGE) + token // PAGE
            page = page_of(table, index, (begin, latest), PAGE, EDGE)
            row = (page * KV_HEADS + head) * PAGE + token % PAGE
            k = load_keys(k_pages, row, SHAPE, BITS)
            index = (block, KV_HEADS, head)
            v = load_values(v_pages, table, index, (begin, latest), SHAPE, BITS, EDGE)
            s = products(k, q, k_pages, row, read, KEY, EDGE, INTERPRETED)
            s = capped(s, factor, cap, CAPPED)
            s = visible(s, at, position, window, WINDOWED, EDGE)
            highest, shrunk, p = exponentials(s, highest, factor, CAPPED)
            gathered, weights, low_sums = gather(
                (gathered, weights, low_sums), v, p, shrunk, v_pages, row, read,
                VALUE, EDGE, INTERPRETED,
            )  # fmt: skip
    weight = tl.sum(weights, 0)
    gathered = mixed_values(gathered, weight, low_sums, v_pages, SHAPE, VALUE)
    highest = highest if CAPPED else highest * factor
    into = (mixed, sums, states)
    store_sums(into, place, kept, highest, weight, gathered, members, SHAPE, SPLIT)


@triton.jit(do_not_specialize=["members"])
@no_type_check
def merge_kernel(  # noqa: PLR0913
    sums,
    states,
    starts,
    lengths,
    mixed,
    members,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    PARTS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
):
    """The parts of a row and head become one. Grid: most rows * heads, sequences."""
    start, count, past = rows_of(starts, lengths, tl.program_id(1))
    if (tl.program_id(0) >= count * HEADS) | (past < 0):
        return
    place = start.to(tl.int64) * HEADS + tl.program_id(0)
    part = tl.arange(0, PADDED_PARTS)
    channel = tl.arange(0, PADDED)
    at = part.to(tl.int64) * members + place
    weight = tl.load(states + 2 * at + 1, mask=part < PARTS, other=0.0)
    highest = tl.load(states + 2 * at, mask=weight > 0, other=float("-inf"))
    share = tl.exp2(highest - tl.max(highest, 0))
    inside = (weight > 0)[:, None] & (channel < CHANNELS)[None, :]
    found = tl.load(sums + at[:, None] * CHANNELS + channel[None, :], mask=inside, other=0.0)
    found = tl.sum(found * share[:, None], 0) / tl.sum(weight * share, 0)
    at = mixed + place * CHANNELS + channel
    tl.store(at, found.to(mixed.dtype.element_ty), mask=channel < CHANNELS)
