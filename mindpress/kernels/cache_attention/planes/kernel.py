"""Codes as left operands of tensor cores, a plane at a time, without a move of bytes.

A word of 32 bits has 4 numbers of 8 bits or 8 of 4. A plane of it are two that lie 16 bits apart:
under a mask, and with the exponent of 1024 (or 64) set, they are two halves of float16 side by
side, 1024 + u (or 64 + u for codes four bits higher): one instruction for two numbers. So plane
`p` of words along channels (of keys) or tokens (of values) has every other channel or token, and
what it is multiplied with is read or split in that order. Source: Kim et al. 2022, "Who Says
Elephants Can't Run", section 3 (the exponents); FasterTransformer,
`interleaved_numeric_conversion.h`.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def exponent_of_plane(PLANE: tl.constexpr, BITS: tl.constexpr):
    """What the numbers of a plane have been raised by."""
    if BITS == 4 and PLANE % 2:
        raised: tl.constexpr = 64.0
    else:
        raised: tl.constexpr = 1024.0
    return raised


@triton.jit
@no_type_check
def codes_of_plane(words, PLANE: tl.constexpr, BITS: tl.constexpr):
    """[rows, words] int32 -> [rows, 2 words] float16."""
    if BITS == 8:
        pairs = ((words >> (8 * PLANE)) & 0x00FF00FF) | 0x64006400
    else:
        shifted = words >> 8 if PLANE >= 2 else words
        MASK: tl.constexpr = 0x00F000F0 if PLANE % 2 else 0x000F000F
        pairs = (shifted & MASK) | (0x54005400 if PLANE % 2 else 0x64006400)
    halves = tl.join(pairs.to(tl.int16), (pairs >> 16).to(tl.int16))
    return tl.reshape(halves, (words.shape[0], 2 * words.shape[1])).to(tl.float16, bitcast=True)


@triton.jit
@no_type_check
def channels_of_plane(
    PLANE: tl.constexpr, PADDED: tl.constexpr, CHANNELS: tl.constexpr, BITS: tl.constexpr
):
    """Which channel each number of a plane of keys is of, and whether there is one."""
    if BITS == 16:
        channel = tl.arange(0, PADDED)
        inside = channel < CHANNELS
    elif BITS == 8:
        channel = tl.arange(0, PADDED // 2) * 2 + PLANE
        inside = channel < CHANNELS
    else:
        place = tl.arange(0, PADDED // 4) * 2 + PLANE // 2
        channel = place + PLANE % 2 * (CHANNELS // 2)
        inside = place < CHANNELS // 2
    return channel, inside


@triton.jit
@no_type_check
def tokens_of_rows(BLOCK: tl.constexpr, PAGE: tl.constexpr, BITS: tl.constexpr):
    """Which token of a block each row of scores^T is of: one plane of values after the other."""
    row = tl.arange(0, BLOCK)
    if BITS == 16:
        token = row
    elif BITS == 8:
        token = row % (BLOCK // 2) * 2 + row // (BLOCK // 2)
    else:
        plane, place = row // (BLOCK // 4), row % (BLOCK // 4)
        token = place // (PAGE // 4) * PAGE + place % (PAGE // 4) * 2
        token += plane // 2 + plane % 2 * (PAGE // 2)
    return token


@triton.jit
@no_type_check
def halved(x):
    """The upper and the lower half of the rows."""
    pair = tl.reshape(x, (2, x.shape[0] // 2, x.shape[1]))
    return tl.split(tl.permute(pair, (1, 2, 0)))


@triton.jit
@no_type_check
def folded(x, FOLD: tl.constexpr):
    """Sums of rows `FOLD` apart, which one thread has."""
    return tl.sum(tl.reshape(x, (x.shape[0] // FOLD, FOLD, x.shape[1])), 0)


@triton.jit
@no_type_check
def load_edge(pointer, there, EDGE: tl.constexpr):
    """What is there; zeros elsewhere, whatever is in memory."""
    return tl.load(pointer, mask=there, other=0) if EDGE else tl.load(pointer)


@triton.jit
@no_type_check
def load_words(data, row, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """[rows, PADDED] words of rows of WIDTH bytes; past their end are zeros.

    Rows that are no whole number of words are read byte by byte.
    """
    word = tl.arange(0, PADDED)
    if data.dtype.element_ty != tl.uint8:
        at = data + row[:, None] * (WIDTH // 4) + word[None, :]
        words = load_edge(at, (4 * word < WIDTH)[None, :], WIDTH < 4 * PADDED)
    else:
        words = tl.zeros((row.shape[0], PADDED), tl.int32)
        for byte in tl.static_range(4):
            at = 4 * word + byte
            one = tl.load(
                data + row[:, None] * WIDTH + at[None, :], mask=(at < WIDTH)[None, :], other=0
            )
            words |= one.to(tl.int32) << (8 * byte)
    return words


@triton.jit
@no_type_check
def dot(left, right, total, INTERPRETED: tl.constexpr):
    """total + left right; the interpreter takes bfloat16 for integers."""
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total)
