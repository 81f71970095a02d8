"""A product with a quantized weight, the plain way: everything is dequantized first.

`matmul(x, exact=True)` is `matmul_reference(x)`; without `exact`, of `int8_rows(x)`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight


def matmul_reference(
    x: Float[Tensor, "*rows inputs"], weight: QuantizedWeight, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*rows outputs"]:
    """x W^T, computed and returned in `dtype`. Memory: the weight in `dtype`."""
    return x.to(dtype) @ weight.dequantize(torch.float32).to(dtype).T


def int8_rows(x: Float[Tensor, "*rows inputs"], group: int) -> Float[Tensor, "*rows inputs"]:
    """What x is after each `group` of a row became codes from -127 to 127 of one scale."""
    groups = x.float().unflatten(-1, (-1, group))
    largest = groups.abs().amax(-1, keepdim=True)
    # Not 127 / largest, which torch computes as a reciprocal times 127.
    inverse = torch.full_like(largest, 127.0).div(largest).where(largest >= 1e-30, 0.0)
    return ((groups * inverse).round() * (largest / 127)).flatten(-2)
