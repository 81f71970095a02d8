"""The weight that codes in the layout of `tiles.py` stand for, in Triton."""

from typing import no_type_check

import triton
import triton.language as tl

BLOCK_INPUTS = tl.constexpr(128)
QUARTER = tl.constexpr(32)
WORDS = tl.constexpr(16)


@triton.jit
@no_type_check
def dequantize(  # noqa: PLR0913
    words,
    scales,
    weight,
    first_output,
    end_output,
    inputs,
    padded,
    GROUP: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    """Outputs from `first_output` to `end_output` of the weight; programs: outputs, blocks."""
    block = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    output = first_output + row
    exists = (output < end_output)[:, None]
    words += block.to(tl.int64) * padded * WORDS
    tile_words = tl.load(
        words + output[:, None] * WORDS + tl.arange(0, WORDS)[None, :], mask=exists
    )
    for quarter in tl.static_range(BLOCK_INPUTS // QUARTER):
        group = block * (BLOCK_INPUTS // GROUP) + quarter * QUARTER // GROUP
        both = tl.load(scales + group * padded + output, mask=output < end_output)
        scale = (both & -16).to(tl.float32, bitcast=True)
        moved = tile_words >> (8 * (quarter % 2) + 4 * (quarter // 2))
        codes = tl.reshape(tl.join(moved & 15, (moved >> 16) & 15), (BLOCK_OUTPUTS, QUARTER))
        numbers = (codes - (both & 15)[:, None]).to(tl.float32) * scale[:, None]
        column = block * BLOCK_INPUTS + quarter * QUARTER + tl.arange(0, QUARTER)
        stored = exists if WHOLE else exists & (column < inputs)[None, :]
        at = row.to(tl.int64)[:, None] * inputs + column[None, :]
        tl.store(weight + at, numbers.to(weight.dtype.element_ty), mask=stored)
