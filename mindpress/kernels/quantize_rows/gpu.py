"""`quantize_rows` on a GPU.

Bytes moved: x once (twice, mostly from L2, where a row is longer than `LONGEST_BLOCK`), one byte
per code. The limit aimed at is the bandwidth of memory.
"""

from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.quantize_rows.kernel import quantize_rows_kernel
from mindpress.kernels.quantize_rows.rows import Int8Rows

LONGEST_BLOCK = 16384
NUMBERS_PER_WARP = 1024  # 32 for each thread


def quantize_rows(
    x: Float[Tensor, "rows inputs"], *, longest_block: int = LONGEST_BLOCK
) -> Int8Rows:
    """`quantize_rows_reference`, bit for bit."""
    x = x.contiguous()
    rows, inputs = x.shape
    codes = torch.empty(rows, inputs, dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    block = min(triton.next_power_of_2(inputs), longest_block)
    if rows > 0:
        launch: Any = quantize_rows_kernel  # Triton adds arguments of its own
        launch[(rows,)](
            x,
            codes,
            scales,
            inputs,
            BLOCK=block,
            WHOLE_ROW=inputs <= block,
            num_warps=warps_for(block),
            enable_fp_fusion=False,
        )
    return Int8Rows(codes, scales)


def warps_for(block: int) -> int:
    """How many warps share `block` numbers of a row: 1 to 16."""
    return max(1, min(16, block // NUMBERS_PER_WARP))
