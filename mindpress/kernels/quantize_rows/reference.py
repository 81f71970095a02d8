"""The definition of `quantize_rows`, in plain torch."""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.quantize_rows.rows import Int8Rows

LARGEST_CODE = 127
ZERO_BELOW = 1e-30  # 127 / absmax is finite above it


def quantize_rows_reference(x: Float[Tensor, "rows inputs"]) -> Int8Rows:
    """Symmetric, a scale for each row: scale = absmax / 127, code = round(x * (127 / absmax)).

    In float32 whatever the dtype of x, each operation rounded by itself, codes half to even.
    An absmax below 1e-30 counts as zero. Peak memory: three float32 copies of x.
    """
    x = x.float()
    largest = x.abs().amax(1)  # NaN if one is
    finite = largest.isfinite()
    nonzero = finite & (largest >= ZERO_BELOW)
    # Not 127 / largest, which torch computes as a reciprocal times 127; nor largest / 127, which
    # it computes so on a GPU.
    limit = torch.full_like(largest, LARGEST_CODE)
    inverse = torch.where(nonzero, limit / largest, 0.0)
    steps = torch.where(finite.unsqueeze(1), x * inverse.unsqueeze(1), 0.0)
    scales = torch.where(nonzero, largest / limit, 0.0)
    return Int8Rows(steps.round().to(torch.int8), scales.where(finite, torch.nan))
