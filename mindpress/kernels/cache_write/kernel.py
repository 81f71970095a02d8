"""Triton kernels that store keys and values in pages; `gpu.py` says what they rely on.

A row of a head is worked on in halves, channels i and i + channels/2: what shares a byte of 4 bits
where rows lie along channels. The arithmetic is that of the reference to the last bit: true
division, and rounding to even by adding 1.5 * 2^23, which interpreter and compiler do alike.
"""

from typing import no_type_check

import triton
import triton.language as tl

LARGEST = tl.constexpr(65504.0)  # of float16
TO_EVEN = tl.constexpr(12582912.0)
INFINITE = tl.constexpr(float("inf"))


@triton.jit
@no_type_check
def _in_float16(x):
    """As float16 rounds it, but finite numbers stay finite; infinities and NaN are kept."""
    near = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
    return tl.where(tl.abs(x) < INFINITE, near, x).to(tl.float16)


@triton.jit
@no_type_check
def load_halves(x, row, stride, inside, CHANNELS: tl.constexpr, HALF: tl.constexpr):
    """Both halves of a row as float32, zeros where it is not `inside`."""
    channel = tl.arange(0, HALF)
    inside = channel < tl.where(inside, CHANNELS // 2, 0)
    at = x + row.to(tl.int64) * stride + channel
    first = tl.load(at, mask=inside, other=0.0)
    second = tl.load(at + CHANNELS // 2, mask=inside, other=0.0)
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
@no_type_check
def _online_scale(first, second, inside, BITS: tl.constexpr, LOWS: tl.constexpr):
    """Scale and low of a row, float16. tl.max overlooks NaN, which must be found later."""
    above = tl.maximum(tl.where(inside, first, -INFINITE), tl.where(inside, second, -INFINITE))
    below = tl.minimum(tl.where(inside, first, INFINITE), tl.where(inside, second, INFINITE))
    broken = tl.max(((first != first) | (second != second)).to(tl.int32), 0) > 0
    high = tl.where(broken, float("nan"), tl.max(above, 0))
    low = tl.where(broken, float("nan"), tl.min(below, 0))
    if LOWS:
        low16 = _in_float16(low)
        # Not of the rounded low, but of the clamped one: so does the reference.
        near = tl.where(tl.abs(low) < INFINITE, tl.minimum(tl.maximum(low, -LARGEST), LARGEST), low)
        scale = tl.div_rn(high - near, 2.0**BITS - 1)
    else:
        low16 = low.to(tl.float16)
        largest = tl.where(broken, float("nan"), tl.maximum(tl.abs(high), tl.abs(low)))
        scale = tl.div_rn(largest, 2.0 ** (BITS - 1) - 1)
    return _in_float16(scale), low16


@triton.jit
@no_type_check
def _codes(x, scale, low, BITS: tl.constexpr):
    """round((x - low) / scale), 0 to 2^BITS - 1."""
    steps = tl.div_rn(x - low, tl.where(scale > 0, scale, 1.0))
    steps = tl.minimum(tl.maximum(steps, 0.0), 2.0**BITS - 1)
    return ((steps + TO_EVEN) - TO_EVEN).to(tl.int32)


@triton.jit
@no_type_check
def _quantized(  # noqa: PLR0913
    halves,
    scales,
    lows,
    head,
    CHANNELS: tl.constexpr,
    BITS: tl.constexpr,
    FIXED: tl.constexpr,
    VARY: tl.constexpr,
    LOWS: tl.constexpr,
):
    """Codes of both halves of a row, and its scale and low, which only online ones have."""
    first, second = halves
    channel = tl.arange(0, first.shape[0])
    inside = channel < CHANNELS // 2
    if FIXED:
        at = head * (CHANNELS if VARY else 1) + channel * VARY
        scale = tl.load(scales + at, mask=inside, other=1.0)
        low = tl.load(lows + at, mask=inside, other=0.0)
        at += CHANNELS // 2 * VARY
        second_scale = tl.load(scales + at, mask=inside, other=1.0)
        second_low = tl.load(lows + at, mask=inside, other=0.0)
        first = _codes(first, scale, low, BITS)
        second = _codes(second, second_scale, second_low, BITS)
    else:
        scale, low = _online_scale(first, second, inside, BITS, LOWS)
        wide = scale.to(tl.float32)
        base = low.to(tl.float32) if LOWS else wide * -(2.0 ** (BITS - 1))
        first, second = _codes(first, wide, base, BITS), _codes(second, wide, base, BITS)
    return first, second, scale, low


@triton.jit
@no_type_check
def partner_of(slots, row, slot, rows, PAGE: tl.constexpr, SHARED: tl.constexpr):
    """Row of the token whose codes share bytes with those of `row`, and whether it is in this call.

    `SHARED`: codes of 4 bits along tokens.
    """
    step = tl.where(slot % PAGE < PAGE // 2, PAGE // 2, -(PAGE // 2))
    other = row + step
    within = (other >= 0) & (other < rows)
    if not SHARED:
        within = row < 0
    together = within & (tl.load(slots + other, mask=within, other=-1) == slot + step)
    return other, together


@triton.jit
@no_type_check
def store_row(  # noqa: PLR0913
    halves,
    partner,
    together,
    pages,
    slot,
    head,
    KV_HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PAGE: tl.constexpr,
    BITS: tl.constexpr,
    BY_CHANNEL: tl.constexpr,
    FIXED: tl.constexpr,
    VARY: tl.constexpr,
    LOWS: tl.constexpr,
):
    """Store halves of a row of a head. Of two rows that share bytes the first writes for both."""
    data, scales, lows = pages
    page, place = (slot // PAGE).to(tl.int64) * KV_HEADS + head, slot % PAGE
    first, second = halves
    channel = tl.arange(0, first.shape[0])
    inside = channel < CHANNELS // 2
    if BITS < 16:
        first, second, scale, low = _quantized(
            halves, scales, lows, head, CHANNELS, BITS, FIXED, VARY, LOWS
        )
        if not FIXED:
            tl.store(scales + page * PAGE + place, scale)
            if LOWS:
                tl.store(lows + page * PAGE + place, low)
    if BITS == 4 and not BY_CHANNEL:
        at = data + (page * PAGE + place) * (CHANNELS // 2) + channel
        tl.store(at, (first | (second << 4)).to(tl.uint8), mask=inside)
    elif BITS == 4:
        WIDTH: tl.constexpr = PAGE // 2
        lower = place < WIDTH
        other, more, _, _ = _quantized(
            partner, scales, lows, head, CHANNELS, BITS, FIXED, VARY, LOWS
        )
        at = data + (page * CHANNELS + channel) * WIDTH + place % WIDTH
        there = channel < tl.where(together, 0, CHANNELS // 2)
        inside = channel < tl.where(lower | (together == 0), CHANNELS // 2, 0)
        _store_shared(at, first, other, there, inside, lower)
        _store_shared(at + CHANNELS // 2 * WIDTH, second, more, there, inside, lower)
    else:
        STEP: tl.constexpr = PAGE if BY_CHANNEL else 1
        at = data + page * PAGE * CHANNELS + channel * STEP
        at += place * (1 if BY_CHANNEL else CHANNELS)
        tl.store(at, first.to(data.dtype.element_ty), mask=inside)
        tl.store(at + CHANNELS // 2 * STEP, second.to(data.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _store_shared(at, codes, others, alone, inside, lower):
    """Bytes of two tokens; the half that is not in this call stays."""
    before = tl.load(at, mask=alone, other=0).to(tl.int32)
    before = tl.where(lower, before >> 4, before & 15)
    others = tl.where(alone, before, others)
    both = tl.where(lower, codes | (others << 4), others | (codes << 4))
    tl.store(at, both.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def write_kernel(  # noqa: PLR0913
    keys,
    values,
    slots,
    key_data,
    key_scales,
    key_lows,
    value_data,
    value_scales,
    value_lows,
    rows,
    key_stride,
    value_stride,
    KV_HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HALF: tl.constexpr,
    PAGE: tl.constexpr,
    BITS: tl.constexpr,
    VALUES: tl.constexpr,
    KEY_BY_CHANNEL: tl.constexpr,
    KEY_FIXED: tl.constexpr,
    KEY_VARY: tl.constexpr,
    KEY_LOWS: tl.constexpr,
    VALUE_BY_CHANNEL: tl.constexpr,
    VALUE_FIXED: tl.constexpr,
    VALUE_VARY: tl.constexpr,
    VALUE_LOWS: tl.constexpr,
):
    """A row of a head, its keys and then its values. Grid: rows, kv heads."""
    row, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    shared: tl.constexpr = BITS == 4 and KEY_BY_CHANNEL
    other, together = partner_of(slots, row, slot, rows, PAGE, shared)
    halves = load_halves(keys + head * CHANNELS, row, key_stride, row >= 0, CHANNELS, HALF)
    partner = load_halves(keys + head * CHANNELS, other, key_stride, together, CHANNELS, HALF)
    store_row(
        halves,
        partner,
        together,
        (key_data, key_scales, key_lows),
        slot,
        head,
        KV_HEADS,
        CHANNELS,
        PAGE,
        BITS,
        KEY_BY_CHANNEL,
        KEY_FIXED,
        KEY_VARY,
        KEY_LOWS,
    )
    if VALUES:
        shared_values: tl.constexpr = BITS == 4 and VALUE_BY_CHANNEL
        other, together = partner_of(slots, row, slot, rows, PAGE, shared_values)
        halves = load_halves(values + head * CHANNELS, row, value_stride, row >= 0, CHANNELS, HALF)
        partner = load_halves(
            values + head * CHANNELS, other, value_stride, together, CHANNELS, HALF
        )
        store_row(
            halves,
            partner,
            together,
            (value_data, value_scales, value_lows),
            slot,
            head,
            KV_HEADS,
            CHANNELS,
            PAGE,
            BITS,
            VALUE_BY_CHANNEL,
            VALUE_FIXED,
            VALUE_VARY,
            VALUE_LOWS,
        )
