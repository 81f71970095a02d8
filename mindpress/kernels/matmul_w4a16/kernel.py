"""Products with weights in the layout of `tiles.py`, in Triton.

Weights are always the first operand of `tl.dot`: its 16 or 64 rows are outputs, of which there are
many, and its columns the few rows of x, which are padded to 8 only. They never leave the registers,
also where the second operand must lie in shared memory (wgmma).

What a lane does per weight limits these kernels beside the memory: while an H200 reads one weight,
it can issue 4 instructions. So there are two ways to deal with zeros.

`matmul_codes` gives the tensor cores the bits of the codes as they are, one AND for two weights: as
float16 a code q is the subnormal 2^-24 q, which tensor cores multiply exactly (Fasi, Higham,
Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 7:e330); as
bfloat16, where products of subnormals would be too small for float32, it is 128 + q. A second dot
subtracts the zeros. Its weights are alike in all columns, so it costs one instruction for 4 to 8
weights, where the sum of every group of x would need a launch of its own, or a reduction in every
program. Instructions per weight on sm_90, 8 rows, groups of 128: 2.0 (bfloat16 2.2); with zeros
subtracted before one dot 2.8 or more, because ptxas moves halves of registers about for that.
No plain fused multiply-adds for one or two rows: unpacking to float32 alone takes 2 of them.

`matmul_weights` subtracts zeros first, exactly, and multiplies once: with more than 16 rows the
second dot would cost more than it saves.
"""

from typing import no_type_check

import triton
import triton.language as tl

BLOCK_INPUTS = tl.constexpr(128)
QUARTER = tl.constexpr(32)
WORDS = tl.constexpr(16)
# Blocks of rows that read the same weights one after the other, so that the cache has them.
NEIGHBOURS = tl.constexpr(8)


@triton.jit
@no_type_check
def _numbers(low, high):
    """[outputs, 16] and [outputs, 16] as [outputs, 32], alternating."""
    return tl.reshape(tl.join(low, high), (low.shape[0], 2 * low.shape[1]))


@triton.jit
@no_type_check
def _place(words, QUARTER_NUMBER: tl.constexpr, TYPE: tl.constexpr):
    """Words with the codes of a quarter at bit 0, or for float16 at bit 0 or 4, and 16 above."""
    if TYPE.is_bf16():
        return words >> (8 * (QUARTER_NUMBER % 2) + 4 * (QUARTER_NUMBER // 2))
    return words >> 8 if QUARTER_NUMBER % 2 == 1 else words


@triton.jit
@no_type_check
def _codes(words, QUARTER_NUMBER: tl.constexpr, TYPE: tl.constexpr):
    """Codes as numbers: 128 + q in bfloat16; 2^-24 q in float16, 2^-20 q in quarters 2 and 3."""
    words = _place(words, QUARTER_NUMBER, TYPE)
    if TYPE.is_bf16():
        bits = (words & 0x000F000F) | 0x43004300
    else:
        bits = words & (0x000F000F << (4 * (QUARTER_NUMBER // 2)))
    return _numbers(bits.to(tl.int16), (bits >> 16).to(tl.int16)).to(TYPE, bitcast=True)


@triton.jit
@no_type_check
def _minus_zeros(zeros, QUARTER_NUMBER: tl.constexpr, TYPE: tl.constexpr):
    """[outputs, 32]: what `_codes` would be for the zeros, negative."""
    shifted = zeros if TYPE.is_bf16() else zeros << (4 * (QUARTER_NUMBER // 2))
    bits = shifted | (0xC300 if TYPE.is_bf16() else 0x8000)
    numbers = bits.to(tl.int16).to(TYPE, bitcast=True)
    return tl.broadcast_to(numbers[:, None], (zeros.shape[0], QUARTER))


@triton.jit
@no_type_check
def _weights(  # noqa: PLR0913
    words,
    zeros,
    scales,
    QUARTER_NUMBER: tl.constexpr,
    TYPE: tl.constexpr,
    ROUNDED: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """[outputs, 32]: q - z exactly; times the scale, rounded to the type, where ROUNDED."""
    words = _place(words, QUARTER_NUMBER, TYPE)
    if TYPE.is_bf16():
        bits = (words & 0x000F000F) | 0x43004300
        offsets = zeros | 0x4300
    elif QUARTER_NUMBER < 2:
        bits = (words & 0x000F000F) | 0x64006400
        offsets = zeros | 0x6400
    else:
        bits = (words & 0x00F000F0) | 0x54005400
        offsets = (zeros << 4) | 0x5400
    offsets = offsets.to(tl.int16).to(TYPE, bitcast=True)[:, None]
    # The upper halves first: in the other order ptxas swaps halves before and after each pair.
    high = (bits >> 16).to(tl.int16).to(TYPE, bitcast=True)
    low = bits.to(tl.int16).to(TYPE, bitcast=True)
    if INTERPRETED:
        high, low, offsets = high.to(tl.float32), low.to(tl.float32), offsets.to(tl.float32)
    high -= offsets
    low -= offsets
    if ROUNDED:
        factors = scales[:, None] if INTERPRETED else scales.to(TYPE)[:, None]
        high *= factors
        low *= factors
    return _numbers(low, high)


@triton.jit
@no_type_check
def _dot(weights, x, total, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        return tl.dot(weights.to(tl.float32), x.to(tl.float32), total)
    return tl.dot(weights, x, total)


@triton.jit
@no_type_check
def _quarter_of_x(x_rows, row_exists, inputs, first, WHOLE: tl.constexpr):
    """[32, rows] of x; the last block of inputs may have quarters that x has not."""
    column = first + tl.arange(0, QUARTER)
    exists = row_exists[None, :]
    if not WHOLE:
        exists &= (column < inputs)[:, None]
    return tl.load(x_rows[None, :] + column[:, None], mask=exists, other=0.0)


@triton.jit
@no_type_check
def _finish(  # noqa: PLR0913
    total,
    y,
    partials,
    arrived,
    output,
    row,
    outputs,
    rows,
    tile,
    SPLIT: tl.constexpr,
):
    """Stores [outputs, rows] of y; of SPLIT inputs, the last program to arrive adds all parts.

    It adds them in their order, whoever was last, and leaves the counter at zero.
    """
    at = row.to(tl.int64)[None, :] * outputs + output[:, None]
    exists = (row < rows)[None, :] & (output < outputs)[:, None]
    if not SPLIT:
        tl.store(y + at, total.to(y.dtype.element_ty), mask=exists)
    else:
        part, parts = tl.program_id(1), tl.num_programs(1)
        size = rows.to(tl.int64) * outputs
        tl.store(partials + part * size + at, total, mask=exists)
        # All lanes have written before one of them says so to the other programs.
        tl.debug_barrier()
        if tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu") == parts - 1:
            total = tl.zeros_like(total)
            for one in range(parts):
                # Not from the first-level cache, which other processors do not write to.
                total += tl.load(
                    partials + one * size + at, mask=exists, other=0.0, cache_modifier=".cg"
                )
            tl.store(y + at, total.to(y.dtype.element_ty), mask=exists)
            tl.store(arrived + tile, 0)


@triton.jit
@no_type_check
def matmul_codes(  # noqa: PLR0913
    x,
    words,
    scales,
    y,
    partials,
    arrived,
    rows,
    outputs,
    inputs,
    padded,
    blocks,
    GROUP: tl.constexpr,
    WHOLE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """At most BLOCK_ROWS rows; programs: tiles of outputs, parts of the inputs."""
    TYPE = x.dtype.element_ty
    # Inputs that share a scale and, in float16, the place of their codes in a word.
    SPAN: tl.constexpr = min(GROUP, 2 * QUARTER) if TYPE.is_fp16() else GROUP
    tile, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    output = tile * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    row = tl.arange(0, BLOCK_ROWS)
    x_rows = x + row * inputs
    words += output[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    for block in range(blocks * part // parts, blocks * (part + 1) // parts):
        tile_words = tl.load(words + block * padded * WORDS, eviction_policy="evict_first")
        for span in tl.static_range(BLOCK_INPUTS // SPAN):
            group = block * (BLOCK_INPUTS // GROUP) + span * SPAN // GROUP
            both = tl.load(scales + group * padded + output)
            scale = (both & -16).to(tl.float32, bitcast=True)
            if TYPE.is_fp16() and span * SPAN >= 2 * QUARTER:
                scale *= 0.0625
            partial = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
            for quarter in tl.static_range(span * SPAN // QUARTER, (span + 1) * SPAN // QUARTER):
                first = block * BLOCK_INPUTS + quarter * QUARTER
                x_tile = _quarter_of_x(x_rows, row < rows, inputs, first, WHOLE)
                codes = _codes(tile_words, quarter, TYPE)
                partial = _dot(codes, x_tile, partial, INTERPRETED)
                zeros = _minus_zeros(both & 15, quarter, TYPE)
                partial = _dot(zeros, x_tile, partial, INTERPRETED)
            total += partial * scale[:, None]
    if TYPE.is_fp16():
        total *= 16777216.0
    _finish(total, y, partials, arrived, output, row, outputs, rows, tile, SPLIT)


@triton.jit
@no_type_check
def matmul_weights(  # noqa: PLR0913
    x,
    words,
    scales,
    y,
    partials,
    arrived,
    rows,
    outputs,
    inputs,
    padded,
    blocks,
    GROUP: tl.constexpr,
    WHOLE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    ROUNDED: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Any number of rows; programs: tiles of rows and outputs, parts of the inputs.

    ROUNDED weights are multiplied in one chain of dots, others apart for each group, and the scale
    with their sum: exact, but a second set of sums in registers.
    """
    TYPE = x.dtype.element_ty
    tile, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    output_tiles = tl.cdiv(outputs, BLOCK_OUTPUTS)
    first_row_tile = tile // (NEIGHBOURS * output_tiles) * NEIGHBOURS
    within = tile % (NEIGHBOURS * output_tiles)
    neighbours = tl.minimum(row_tiles - first_row_tile, NEIGHBOURS)
    row = (first_row_tile + within % neighbours) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    output = within // neighbours * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    x_rows = x + row.to(tl.int64) * inputs
    words += output[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
    for block in range(blocks * part // parts, blocks * (part + 1) // parts):
        tile_words = tl.load(words + block * padded * WORDS)
        for span in tl.static_range(BLOCK_INPUTS // GROUP):
            group = block * (BLOCK_INPUTS // GROUP) + span
            both = tl.load(scales + group * padded + output)
            scale = (both & -16).to(tl.float32, bitcast=True)
            if not ROUNDED:
                partial = tl.zeros((BLOCK_OUTPUTS, BLOCK_ROWS), tl.float32)
            for quarter in tl.static_range(span * GROUP // QUARTER, (span + 1) * GROUP // QUARTER):
                first = block * BLOCK_INPUTS + quarter * QUARTER
                x_tile = _quarter_of_x(x_rows, row < rows, inputs, first, WHOLE)
                weights = _weights(
                    tile_words, both & 15, scale, quarter, TYPE, ROUNDED, INTERPRETED
                )
                if ROUNDED:
                    total = _dot(weights, x_tile, total, INTERPRETED)
                else:
                    partial = _dot(weights, x_tile, partial, INTERPRETED)
            if not ROUNDED:
                total += partial * scale[:, None]
    _finish(total, y, partials, arrived, output, row, outputs, rows, tile, SPLIT)
