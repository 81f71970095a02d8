"""Quantize activations to int8 on the CPU, by the compiled library.

Bytes moved per call: x once, a byte for each number; it aims at the bandwidth of memory.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.native.call import check, how, library_for
from mindpress.kernels.quantize_rows.rows import Int8Rows


@torch.no_grad()
def quantize_rows_cpu(x: Float[Tensor, "rows inputs"], threads: int = 0) -> Int8Rows:
    """`quantize_rows_reference`, bit for bit; `threads` 0: as many as torch uses.

    Peak memory beside the result: a float32 copy of x where it is not that already. Raises
    ResourceError where nothing was compiled.
    """
    library = library_for("rows of int8 codes")
    numbers = x.float().contiguous()
    codes = numbers.new_empty(numbers.shape, dtype=torch.int8)
    scales = numbers.new_empty(len(numbers))
    addresses = codes.data_ptr(), scales.data_ptr()
    set_number, count = how(threads)
    done = library.quantize_rows(numbers.data_ptr(), *numbers.shape, *addresses, set_number, count)
    check(done, "quantizing rows", set_number)
    return Int8Rows(codes, scales)
