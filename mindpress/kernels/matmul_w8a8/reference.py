"""The definition of `matmul_w8a8`, in plain torch."""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.matmul_w8a8.weight import Int8Weight, check_product
from mindpress.kernels.quantize_rows.rows import Int8Rows


def matmul_w8a8_reference(
    x: Int8Rows, weight: Int8Weight, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "rows outputs"]:
    """y[r, o] = (sum_i x[r, i] w[o, i]) * x.scales[r] * weight.scales[o], from left to right.

    The sum is exact, the products are float32 (float64 if `dtype` is), rounded to `dtype` at the
    end. Source: Dettmers et al. 2022, "LLM.int8()", section 3.1 (vector-wise).
    Raises InputError where x does not fit. Memory: eight bytes for each code.
    """
    check_product(x, weight)
    wide = torch.promote_types(dtype, torch.float32)
    # float64 adds these integers exactly, and torch has no integer product on GPUs.
    sums = x.codes.double() @ weight.codes.double().T
    by_row = sums.to(wide) * x.scales.to(wide).unsqueeze(1)
    return (by_row * weight.scales.to(wide)).to(dtype)
