"""Triton kernel that turns queries and keys and stores keys and values; see `gpu.py`."""

from typing import no_type_check

import triton
import triton.language as tl

from mindpress.kernels.cache_write.kernel import load_halves, partner_of, store_row


@triton.jit
@no_type_check
def _normed(x, channel, weights, scale, CHANNELS: tl.constexpr, NORMED: tl.constexpr):
    if NORMED:
        weight = tl.load(weights + channel, mask=channel < CHANNELS, other=0.0)
        x = x * scale * weight.to(tl.float32)
    return x


@triton.jit
@no_type_check
def _turned(  # noqa: PLR0913
    x, weights, scale, tables, channel, CHANNELS: tl.constexpr,
    ROTARY: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """Some channels of a head, turned: each with its other of the pair, read a second time."""
    cosines, sines = tables
    inside, turns = channel < CHANNELS, channel < ROTARY
    upper = channel >= ROTARY // 2
    other = tl.where(upper, channel - ROTARY // 2, channel + ROTARY // 2)
    own = tl.load(x + channel, mask=inside, other=0.0).to(tl.float32)
    pair = tl.load(x + other, mask=turns, other=0.0).to(tl.float32)
    own = _normed(own, channel, weights, scale, CHANNELS, NORMED)
    pair = _normed(pair, tl.where(turns, other, 0), weights, scale, CHANNELS, NORMED)
    cosine = tl.load(cosines + channel, mask=turns, other=1.0).to(tl.float32)
    sine = tl.load(sines + channel, mask=turns, other=0.0).to(tl.float32)
    turned = own * cosine + tl.where(upper, pair, -pair) * sine
    return tl.where(turns, turned, own).to(x.dtype.element_ty)


@triton.jit
@no_type_check
def _scale_of_head(x, eps, CHANNELS: tl.constexpr, HALF: tl.constexpr, NORMED: tl.constexpr):
    """1 / root mean square."""
    scale = eps
    if NORMED:
        channel = tl.arange(0, 2 * HALF)
        whole = tl.load(x + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt_rn(tl.sum(whole * whole, 0) / CHANNELS + eps)
    return scale


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def rotary_write_kernel(  # noqa: PLR0913
    fused, cosines, sines, weights, slots, query,
    key_data, key_scales, key_lows, value_data, value_scales, value_lows,
    rows, eps, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, CHANNELS: tl.constexpr,
    HALF: tl.constexpr, ROTARY: tl.constexpr, NORMED: tl.constexpr,
    PAGE: tl.constexpr, BITS: tl.constexpr,
    KEY_BY_CHANNEL: tl.constexpr, KEY_FIXED: tl.constexpr, KEY_VARY: tl.constexpr,
    KEY_LOWS: tl.constexpr, VALUE_BY_CHANNEL: tl.constexpr, VALUE_FIXED: tl.constexpr,
    VALUE_VARY: tl.constexpr, VALUE_LOWS: tl.constexpr,
):  # fmt: skip
    """A query head of a row, or a kv head's keys and values. Grid: rows, heads + kv heads."""
    row, head = tl.program_id(0), tl.program_id(1)
    STRIDE: tl.constexpr = (HEADS + 2 * KV_HEADS) * CHANNELS
    x = fused + row.to(tl.int64) * STRIDE + head * CHANNELS
    tables = (cosines + row * ROTARY, sines + row * ROTARY)
    weights += head * CHANNELS
    scale = _scale_of_head(x, eps, CHANNELS, HALF, NORMED)
    half = tl.arange(0, HALF)
    # What is beyond the first half goes to a channel that is not there.
    lower = tl.where(half < CHANNELS // 2, half, CHANNELS)
    upper = tl.where(half < CHANNELS // 2, half + CHANNELS // 2, CHANNELS)
    first = _turned(x, weights, scale, tables, lower, CHANNELS, ROTARY, NORMED)
    second = _turned(x, weights, scale, tables, upper, CHANNELS, ROTARY, NORMED)
    if head < HEADS:
        at = query + (row.to(tl.int64) * HEADS + head) * CHANNELS
        tl.store(at + lower, first, mask=lower < CHANNELS)
        tl.store(at + upper, second, mask=upper < CHANNELS)
        return
    slot = tl.load(slots + row)
    if slot < 0:
        return
    head -= HEADS
    keys = first.to(tl.float32), second.to(tl.float32)
    store_row(
        keys, keys, slot < 0, (key_data, key_scales, key_lows), slot, head,
        KV_HEADS, CHANNELS, PAGE, BITS, KEY_BY_CHANNEL, KEY_FIXED, KEY_VARY, KEY_LOWS,
    )  # fmt: skip
    shared: tl.constexpr = BITS == 4 and VALUE_BY_CHANNEL
    other, together = partner_of(slots, row, slot, rows, PAGE, shared)
    at = fused + (HEADS + KV_HEADS + head) * CHANNELS
    values = load_halves(at, row, STRIDE, slot >= 0, CHANNELS, HALF)
    partner = load_halves(at, other, STRIDE, together, CHANNELS, HALF)
    store_row(
        values, partner, together, (value_data, value_scales, value_lows), slot, head,
        KV_HEADS, CHANNELS, PAGE, BITS, VALUE_BY_CHANNEL, VALUE_FIXED, VALUE_VARY, VALUE_LOWS,
    )  # fmt: skip
