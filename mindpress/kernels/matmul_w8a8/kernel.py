"""`matmul_w8a8` in Triton: exact int32 sums on the tensor cores, scaled once at the end."""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _place(tile, row_tiles, output_tiles, GROUP: tl.constexpr):
    """Where a tile is: GROUP tiles of rows take turns, so that they share weights in L2."""
    in_group = GROUP * output_tiles
    first = tile // in_group * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    return first + tile % in_group % height, tile % in_group // height


@triton.jit
@no_type_check
def _is_last(counter_ptr, SPLIT: tl.constexpr):
    """Whether all other parts of the tile are stored; then its counter is 0 again."""
    # The counter is one thread's; its release covers the stores of the others behind a barrier.
    tl.debug_barrier()
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == SPLIT - 1
    tl.debug_barrier()
    if last:
        tl.store(counter_ptr, 0)
    return last


@triton.jit
@no_type_check
def _added(parts, has_row, size: tl.constexpr, SPLIT: tl.constexpr):
    """The sums of all parts, one after the other; past L1, which may hold what was there before."""
    sums = tl.load(parts, mask=has_row[:, None], other=0, cache_modifier=".cg")
    for part in tl.static_range(1, SPLIT):  # all loads at once
        found = parts + part * size
        sums += tl.load(found, mask=has_row[:, None], other=0, cache_modifier=".cg")
    return sums


@triton.jit
@no_type_check
def matmul_w8a8_kernel(  # noqa: PLR0913
    x_ptr,
    x_scales_ptr,
    weight_ptr,
    weight_scales_ptr,
    y_ptr,
    partials_ptr,
    counters_ptr,
    rows,
    outputs,
    inputs,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr,
):
    """One tile of y, or the part of its sums over 1 / SPLIT of the inputs.

    WHOLE_BLOCKS: inputs are a multiple of BLOCK_INPUTS. Otherwise of 32.
    """
    tile, part = tl.program_id(0), tl.program_id(1)
    row_tiles, output_tiles = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(outputs, BLOCK_OUTPUTS)
    row_tile, output_tile = _place(tile, row_tiles, output_tiles, GROUP)
    row = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    output = output_tile * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    column = tl.arange(0, BLOCK_INPUTS)
    has_row = row < rows

    blocks = tl.cdiv(inputs, BLOCK_INPUTS)
    begin, end = blocks * part // SPLIT, blocks * (part + 1) // SPLIT
    x_rows = x_ptr + row.to(tl.int64)[:, None] * inputs + column[None, :]
    # Outputs that are not there read the last one: no mask, and nobody stores what comes out.
    present = tl.minimum(output, outputs - 1).to(tl.int64)
    weights = weight_ptr + present[:, None] * inputs + column[None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_OUTPUTS), tl.int32)
    for block in range(begin, end):
        first = block * BLOCK_INPUTS
        if WHOLE_BLOCKS:
            x = tl.load(x_rows + first, mask=has_row[:, None], other=0)
            weight = tl.load(weights + first)
        else:
            left = column < inputs - first
            x = tl.load(x_rows + first, mask=has_row[:, None] & left[None, :], other=0)
            weight = tl.load(weights + first, mask=left[None, :], other=0)
        # Loaded as it lies and turned here: otherwise the compiler prefetches registers on sm_80,
        # one code at a time, which doubles the instructions of the loop and its registers.
        sums = tl.dot(x, tl.trans(weight), sums, out_dtype=tl.int32)

    if SPLIT > 1:
        across, down = tl.arange(0, BLOCK_OUTPUTS), tl.arange(0, BLOCK_ROWS)
        size: tl.constexpr = BLOCK_ROWS * BLOCK_OUTPUTS
        mine = partials_ptr + tile.to(tl.int64) * (SPLIT * size)
        mine += down[:, None] * BLOCK_OUTPUTS + across[None, :]
        tl.store(mine + part * size, sums, mask=has_row[:, None])
        if not _is_last(counters_ptr + tile, SPLIT):
            return
        sums = _added(mine, has_row, size, SPLIT)
    x_scales = tl.load(x_scales_ptr + row, mask=has_row, other=0.0)
    weight_scales = tl.load(weight_scales_ptr + output, mask=output < outputs, other=0.0)
    y = sums.to(tl.float32) * x_scales[:, None] * weight_scales[None, :]
    inside = has_row[:, None] & (output < outputs)[None, :]
    y_rows = y_ptr + row.to(tl.int64)[:, None] * outputs + output[None, :]
    tl.store(y_rows, y.to(y_ptr.dtype.element_ty), mask=inside)
