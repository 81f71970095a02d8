"""The product of float32 rows with a weight of 16-bit floats, exact but for the order of its sum.

Bytes moved: the weight, two bytes each, once; with few rows it aims at the bandwidth of memory,
where a float32 copy of the weight would take twice as long. Many rows are multiplied by torch, with
some outputs at a time as float32.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import linear

from mindpress.errors import InputError
from mindpress.kernels.native.call import check, how, library_for

# From about this many rows on torch's product pays for converting the weight.
PANEL_ROWS = 12
PANEL_WEIGHTS = 2**20
DTYPES = (torch.float16, torch.bfloat16)


@torch.no_grad()
def matmul_w16_cpu(
    x: Float[Tensor, "*rows inputs"], weight: Float[Tensor, "outputs columns"], threads: int = 0
) -> Float32[Tensor, "*rows outputs"]:
    """x W^T in float32; `threads` 0: as many as torch uses.

    Peak memory beside the result: 4 MiB of weights as float32. Raises InputError where x or the
    type of the weight does not fit, ResourceError where nothing was compiled.
    """
    if x.shape[-1] != weight.shape[1]:
        raise InputError(f"the weight has {weight.shape[1]} inputs, x has {x.shape[-1]}")
    if weight.dtype not in DTYPES or weight.device.type != "cpu" or not weight.is_contiguous():
        raise InputError(f"a contiguous weight of 16 bits in the CPU's memory, not {weight.dtype}")
    rows = x.float().reshape(-1, x.shape[-1]).contiguous()
    y = rows.new_empty(len(rows), len(weight))
    if len(rows) >= PANEL_ROWS:
        _by_panels(rows, weight, y)
    else:
        _multiply(rows, weight, y, threads)
    return y.view(*x.shape[:-1], len(weight))


def _by_panels(x: Tensor, weight: Tensor, y: Tensor) -> None:
    step = max(1, PANEL_WEIGHTS // weight.shape[1])
    for first in range(0, len(weight), step):
        panel = weight[first : first + step].float()
        y[:, first : first + step] = linear(x, panel)


def _multiply(x: Tensor, weight: Tensor, y: Tensor, threads: int) -> None:
    library = library_for("weights of 16 bits")
    set_number, count = how(threads)
    done = library.w16_matmul(
        weight.data_ptr(),
        weight.dtype == torch.bfloat16,
        *weight.shape,
        x.data_ptr(),
        len(x),
        y.data_ptr(),
        set_number,
        count,
    )
    check(done, "the product with weights of 16 bits", set_number)
