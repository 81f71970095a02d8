"""`quantize_rows` in Triton: one program a row."""

from typing import no_type_check

import triton
import triton.language as tl

INFINITY_BITS = tl.constexpr(0x7F800000)
ROUND = tl.constexpr(
    12582912.0
)  # 1.5 * 2^23: adding it rounds half to even, the code is the low byte


@triton.jit
@no_type_check
def size_bits(x):
    """The absolute value as an integer in the same order; NaN comes after infinity."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
@no_type_check
def scale_and_inverse(largest_bits):
    """Of a row; both rounded as IEEE wants, which a plain division on a GPU is not."""
    finite = largest_bits < INFINITY_BITS
    largest = largest_bits.to(tl.float32, bitcast=True)
    nonzero = finite & (largest >= 1e-30)
    safe = tl.where(nonzero, largest, 1.0)
    limit = tl.full((), 127.0, tl.float32)
    scale = tl.where(nonzero, tl.div_rn(safe, limit), 0.0)
    inverse = tl.where(nonzero, tl.div_rn(limit, safe), 0.0)
    return tl.where(finite, scale, float("nan")), inverse


@triton.jit
@no_type_check
def codes_of(x, inverse):
    """Codes of a row; 0 where its inverse is 0, even of NaN.

    The launcher turns fusing off: x * inverse is rounded before it is rounded to a code.
    """
    steps = tl.where(inverse == 0.0, 0.0, x) * inverse
    return (steps + ROUND).to(tl.int32, bitcast=True).to(tl.int8)


@triton.jit
@no_type_check
def quantize_rows_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    inputs,
    BLOCK: tl.constexpr,
    WHOLE_ROW: tl.constexpr,
):
    """WHOLE_ROW: a block holds the row, which is read once; otherwise twice, mostly from cache."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    x_row, codes_row = x_ptr + row * inputs, codes_ptr + row * inputs
    if WHOLE_ROW:
        inside = column < inputs
        x = tl.load(x_row + column, mask=inside, other=0.0).to(tl.float32)
        scale, inverse = scale_and_inverse(tl.max(size_bits(x), axis=0))
        tl.store(codes_row + column, codes_of(x, inverse), mask=inside)
    else:
        largest = tl.zeros((BLOCK,), tl.int32)
        for first in range(0, inputs, BLOCK):
            inside = first + column < inputs
            x = tl.load(x_row + first + column, mask=inside, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, size_bits(x))
        scale, inverse = scale_and_inverse(tl.max(largest, axis=0))
        for first in range(0, inputs, BLOCK):
            inside = first + column < inputs
            x = tl.load(x_row + first + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(codes_row + first + column, codes_of(x, inverse), mask=inside)
    tl.store(scales_ptr + row, scale)
