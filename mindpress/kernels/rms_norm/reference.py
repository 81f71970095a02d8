"""The definition of the norms, in plain torch.

y = x / sqrt(mean(x^2) + eps) * weight, computed in float32 (float64 for a float64 x) and rounded
once. Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.kernels.quantize_rows.rows import Int8Rows

Rows = Float[Tensor, "rows channels"]
Weight = Float[Tensor, " channels"]


def rms_norm_reference(x: Rows, weight: Weight, eps: float) -> Rows:
    """The norm of every row, in the dtype of x."""
    return _normed(x, weight, eps).to(x.dtype)


def add_rms_norm_reference(
    x: Rows, residual: Rows, weight: Weight, eps: float
) -> tuple[Rows, Rows]:
    """The norm of x + residual, and that sum, which is rounded to its dtype before the norm."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total


def rms_norm_int8_reference(x: Rows, weight: Weight, eps: float) -> Int8Rows:
    """Codes of the norm, which is not rounded to the dtype of x before."""
    return quantize_rows_reference(_normed(x, weight, eps))


def add_rms_norm_int8_reference(
    x: Rows, residual: Rows, weight: Weight, eps: float
) -> tuple[Int8Rows, Rows]:
    """Codes of the norm of x + residual, and that sum in its dtype."""
    total = x + residual
    return rms_norm_int8_reference(total, weight, eps), total


def _normed(x: Rows, weight: Weight, eps: float) -> Rows:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.to(wide.dtype)
