"""Weights of the softmax from pages of keys: scores^T = K q^T, [BLOCK, ROWS].

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
    load_edge,
    load_words,
)

LOG2E = tl.constexpr(1.4426950408889634)
HIDDEN = tl.constexpr(float("-inf"))


@triton.jit
@no_type_check
def load_keys(keys, row, SHAPE: tl.constexpr, BITS: tl.constexpr):
    CHANNELS: tl.constexpr = SHAPE[0]
    PADDED: tl.constexpr = SHAPE[1]
    if BITS < 16:
        k = load_words(keys[0], row, CHANNELS * BITS // 8, PADDED * BITS // 32)
    else:
        channel = tl.arange(0, PADDED)
        at = keys[0] + row[:, None] * CHANNELS + channel[None, :]
        k = load_edge(at, (channel < CHANNELS)[None, :], CHANNELS < PADDED)
    return k


@triton.jit
@no_type_check
def products(  # noqa: PLR0913
    k, q, keys, row, read, KIND: tl.constexpr, EDGE: tl.constexpr, INTERPRETED: tl.constexpr
):  # fmt: skip
    """k . q / unit, [BLOCK, ROWS]."""
    planes, total, constant = q
    s = tl.zeros((k.shape[0], constant.shape[0]), tl.float32)
    if KIND[0] == 16:
        s = dot(k, planes[0], s, INTERPRETED)
    else:
        for plane in tl.static_range(16 // KIND[0]):
            s = dot(codes_of_plane(k, plane, KIND[0]), planes[plane], s, INTERPRETED)
        s += constant[None, :]
        if not KIND[1]:
            s *= load_edge(keys[1] + row, read, EDGE).to(tl.float32)[:, None]
            if KIND[3]:
                low = load_edge(keys[2] + row, read, EDGE).to(tl.float32)
                s += low[:, None] * total[None, :]
    return s


@triton.jit
@no_type_check
def capped(s, factor, cap, CAPPED: tl.constexpr):
    """cap * tanh(score / cap), times log2(e) already; products as they are without a cap."""
    if CAPPED:
        s = cap * LOG2E * (1.0 - 2.0 / (1.0 + tl.exp2(s * factor[None, :])))
    return s


@triton.jit
@no_type_check
def visible(s, at, position, window, WINDOWED: tl.constexpr, EDGE: tl.constexpr):
    """Scores of what a row does not see are -inf, whatever they were."""
    if EDGE:
        seen = at[:, None] <= position[None, :]
        if WINDOWED:
            seen = seen & (at[:, None] > position[None, :] - window)
        s = tl.where(seen, s, HIDDEN)
    return s


@triton.jit
@no_type_check
def exponentials(s, highest, factor, CAPPED: tl.constexpr):
    """The highest score so far, what sums so far shrink by, and exp(score - highest)."""
    new = tl.maximum(highest, tl.max(s, 0))
    if CAPPED:
        shrunk = tl.exp2(highest - new)
        p = tl.exp2(s - new[None, :])
    else:
        shrunk = tl.exp2((highest - new) * factor)
        p = tl.exp2(s * factor[None, :] - (new * factor)[None, :])
    return new, shrunk, p
