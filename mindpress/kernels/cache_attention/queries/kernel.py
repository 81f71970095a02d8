"""Rows of queries, each in a unit of its own, split into the planes of the keys' codes."""

from typing import no_type_check

import triton
import triton.language as tl

from mindpress.kernels.cache_attention.planes.kernel import channels_of_plane, exponent_of_plane


@triton.jit
@no_type_check
def rows_of(starts, lengths, sequence):
    """First row of a sequence, how many, and how many positions come before them."""
    start = tl.load(starts + sequence).to(tl.int32)
    count = tl.load(starts + sequence + 1).to(tl.int32) - start
    return start, count, tl.load(lengths + sequence).to(tl.int32) - count


@triton.jit
@no_type_check
def members_of(first, past, count, kv_heads, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Of a tile of rows x group: whether there is one, its position and its place among rows x
    heads; the positions of the first and the last row."""
    tile, head = tl.program_id(0) // kv_heads, tl.program_id(0) % kv_heads
    member = tile * ROWS + tl.arange(0, ROWS)
    row = member // GROUP
    place = (first + row).to(tl.int64) * kv_heads * GROUP + head * GROUP + member % GROUP
    earliest = past + tile * ROWS // GROUP
    latest = past + tl.minimum((tile * ROWS + ROWS - 1) // GROUP, count - 1)
    return row < count, past + row, place, earliest, latest


@triton.jit
@no_type_check
def _plane(query, members, scales, PLANE: tl.constexpr, SHAPE: tl.constexpr, KIND: tl.constexpr):
    """[channels of the plane, ROWS] float32, times the scales of fixed keys."""
    place, kept = members
    channel, inside = channels_of_plane(PLANE, SHAPE[1], SHAPE[0], KIND[0])
    at = query + place[None, :] * SHAPE[0] + channel[:, None]
    found = tl.load(at, mask=inside[:, None] & kept[None, :], other=0.0).to(tl.float32)
    if KIND[1]:
        found *= tl.load(scales + channel * KIND[2], mask=inside, other=0.0)[:, None]
    return found


@triton.jit
@no_type_check
def _in_units(plane, unit, TYPE: tl.constexpr):
    """The operand, and the sum of its rounded numbers."""
    operand = (plane / unit[None, :]).to(TYPE)
    return operand, tl.sum(operand.to(tl.float32), 0)


@triton.jit
@no_type_check
def query_planes(query, members, keys, TYPE: tl.constexpr, SHAPE: tl.constexpr, KIND: tl.constexpr):
    """Planes of q / unit, their sum, and what is added to products with codes; the unit.

    The unit of a row is a power of 2 near its largest number: nothing overflows float16, whatever
    type the query has, and float16 queries lose nothing. SHAPE: channels, and those made up to a
    power of 2. KIND: bits; whether scales are fixed, whether each channel has one; whether there
    are lows.
    """
    BITS: tl.constexpr = KIND[0]
    q0 = _plane(query, members, keys[1], 0, SHAPE, KIND)
    q1, q2, q3 = q0, q0, q0
    if BITS <= 8:
        q1 = _plane(query, members, keys[1], 1, SHAPE, KIND)
    if BITS == 4:
        q2 = _plane(query, members, keys[1], 2, SHAPE, KIND)
        q3 = _plane(query, members, keys[1], 3, SHAPE, KIND)
    largest = tl.maximum(tl.max(tl.abs(q0), 0), tl.max(tl.abs(q1), 0))
    largest = tl.maximum(largest, tl.maximum(tl.max(tl.abs(q2), 0), tl.max(tl.abs(q3), 0)))
    unit = tl.exp2(tl.floor(tl.log2(tl.where(largest > 0, largest, 1.0))))
    q0, total = _in_units(q0, unit, TYPE)
    constant = -exponent_of_plane(0, BITS) * total
    if BITS <= 8:
        q1, more = _in_units(q1, unit, TYPE)
        total += more
        constant -= exponent_of_plane(1, BITS) * more
    if BITS == 4:
        q2, even = _in_units(q2, unit, TYPE)
        q3, odd = _in_units(q3, unit, TYPE)
        total += even + odd
        constant -= exponent_of_plane(2, BITS) * even + exponent_of_plane(3, BITS) * odd
    constant += _lows(query, members, keys, total, unit, SHAPE, KIND)
    return ((q0, q1, q2, q3), total, constant), unit


@triton.jit
@no_type_check
def _lows(query, members, keys, total, unit, SHAPE: tl.constexpr, KIND: tl.constexpr):  # noqa: PLR0913
    """What lows add to a row's products, in units, where all tokens have the same."""
    if KIND[1]:
        PLAIN: tl.constexpr = (16, True, KIND[2], False)
        added = tl.sum(_plane(query, members, keys[2], 0, SHAPE, PLAIN), 0) / unit
    elif KIND[3]:
        added = total * 0.0
    else:
        added = total * -(2 ** (KIND[0] - 1))
    return added
