"""Sums of weighted values from pages: mixed^T = V^T p^T, [channels, ROWS].

Tuples of constants: SHAPE is channels, those made up to a power of 2, tokens of a page, positions
of a block. KIND is bits; whether scales are fixed, whether each channel has one; whether there
are lows. Keys and values are data, scales, lows. EDGE: some rows do not see all of the block.
"""

from typing import no_type_check

import triton
import triton.language as tl

from mindpress.kernels.cache_attention.planes.kernel import (
    codes_of_plane,
    dot,
    exponent_of_plane,
    folded,
    halved,
    load_edge,
)


@triton.jit
@no_type_check
def page_of(table, index, seen, PAGE: tl.constexpr, EDGE: tl.constexpr):
    """Pages at places of the table; page 0 for those that have none of the positions."""
    begin, latest = seen
    there = (index >= begin // PAGE) & (index <= latest // PAGE)
    return load_edge(table + index, there, EDGE).to(tl.int64)


@triton.jit
@no_type_check
def load_values(  # noqa: PLR0913
    values, table, where, seen, SHAPE: tl.constexpr, BITS: tl.constexpr, EDGE: tl.constexpr
):
    """[channels, words or numbers of the block]. `where`: block, kv heads, and which of them."""
    block, kv_heads, head = where
    CHANNELS: tl.constexpr = SHAPE[0]
    PAGES: tl.constexpr = SHAPE[3] // SHAPE[2]
    WIDTH: tl.constexpr = SHAPE[2] if BITS == 16 else SHAPE[2] * BITS // 32
    word, channel = tl.arange(0, PAGES * WIDTH), tl.arange(0, SHAPE[1])
    page = page_of(table, block * PAGES + word // WIDTH, seen, SHAPE[2], EDGE)
    at = (page * kv_heads + head) * (CHANNELS * WIDTH) + word % WIDTH
    at = values[0] + at[None, :] + (channel * WIDTH)[:, None]
    return load_edge(at, (channel < CHANNELS)[:, None], SHAPE[1] > CHANNELS)


@triton.jit
@no_type_check
def _add_floats(gathered, v, p, read, EDGE: tl.constexpr, INTERPRETED: tl.constexpr):
    """gathered + v p; what nobody sees may be NaN, which no weight of 0 would hide."""
    if EDGE:
        v = tl.where(read[None, :], v, 0.0)
    return dot(v, p if INTERPRETED else p.to(v.dtype), gathered, INTERPRETED)


@triton.jit
@no_type_check
def _add_codes(gathered, v, p, BITS: tl.constexpr, INTERPRETED: tl.constexpr):
    """gathered + (codes - middle) p. The middle goes before the product: the sum over a long past
    would drown in it, as tensor cores round towards zero."""
    p0, p1 = halved(p.to(tl.float16))
    if BITS == 8:
        parts = (p0, p1)
    else:
        p00, p01 = halved(p0)
        p10, p11 = halved(p1)
        parts = (p00, p01, p10, p11)
    for plane in tl.static_range(16 // BITS):
        codes = codes_of_plane(v, plane, BITS) - (exponent_of_plane(plane, BITS) + 2 ** (BITS - 1))
        gathered = dot(codes, parts[plane], gathered, INTERPRETED)
    return gathered


@triton.jit
@no_type_check
def gather(  # noqa: PLR0913
    sums, v, p, shrunk, values, row, read, KIND: tl.constexpr, EDGE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Sums of codes (times scales of tokens, in sixty-fourths or fourths that float16 holds), of
    weights, and of what middle codes stand for."""
    gathered, weights, low_sums = sums
    FOLD: tl.constexpr = weights.shape[0]
    weights = weights * shrunk[None, :] + folded(p, FOLD)
    gathered *= shrunk[None, :]
    if KIND[0] == 16:
        gathered = _add_floats(gathered, v, p, read, EDGE, INTERPRETED)
    else:
        if not KIND[1]:
            scale = load_edge(values[1] + row, read, EDGE).to(tl.float32)
            if KIND[3]:
                low = load_edge(values[2] + row, read, EDGE).to(tl.float32)
                low += 2 ** (KIND[0] - 1) * scale
                low_sums = low_sums * shrunk[None, :] + folded(p * low[:, None], FOLD)
            p *= (scale * (64.0 if KIND[0] == 8 else 4.0))[:, None]
        gathered = _add_codes(gathered, v, p, KIND[0], INTERPRETED)
    return gathered, weights, low_sums


@triton.jit
@no_type_check
def mixed_values(gathered, weight, low_sums, values, SHAPE: tl.constexpr, KIND: tl.constexpr):
    """What sums of codes stand for; not yet divided by the weight."""
    if KIND[1]:
        channel = tl.arange(0, SHAPE[1])
        scale = tl.load(values[1] + channel * KIND[2], mask=channel < SHAPE[0], other=0.0)
        low = tl.load(values[2] + channel * KIND[2], mask=channel < SHAPE[0], other=0.0)
        low += 2 ** (KIND[0] - 1) * scale
        gathered = gathered * scale[:, None] + low[:, None] * weight[None, :]
    elif KIND[0] < 16:
        gathered = gathered * (1 / 64 if KIND[0] == 8 else 1 / 4)
        gathered += tl.sum(low_sums, 0)[None, :]
    return gathered


@triton.jit
@no_type_check
def store_sums(  # noqa: PLR0913
    into, place, kept, highest, weight, gathered, members, SHAPE: tl.constexpr, SPLIT: tl.constexpr
):  # fmt: skip
    """The result; or the sums of a part, with the highest score and the weight they are for."""
    mixed, sums, states = into
    channel = tl.arange(0, SHAPE[1])
    inside = (channel < SHAPE[0])[:, None] & kept[None, :]
    if SPLIT:
        place += tl.program_id(2).to(tl.int64) * members
        tl.store(states + 2 * place, highest, mask=kept)
        tl.store(states + 2 * place + 1, weight, mask=kept)
        at = sums + place[None, :] * SHAPE[0] + channel[:, None]
        tl.store(at, gathered, mask=inside & (weight > 0)[None, :])
    else:
        at = mixed + place[None, :] * SHAPE[0] + channel[:, None]
        tl.store(at, (gathered / weight[None, :]).to(mixed.dtype.element_ty), mask=inside)
