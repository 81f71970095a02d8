"""The weight that would give the original output on the inputs that quantized blocks make."""

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.lite.factor import InverseFactor
from mindpress.lite.moments import Moments


@torch.no_grad()
def aimed(
    weight: Float32[Tensor, "outputs inputs"],
    moments: Moments,
    factor: InverseFactor,
) -> Float32[Tensor, "outputs inputs"]:
    """W' = W + (W drift + gap) (H + damping)^-1, the ridge solution of W' x = W t + g.

    With H = sum of x x^T, ||Q x - W t||^2 = ||(Q - W') x||^2 + what no Q changes, so rounding W'
    against H is the asymmetric calibration of Li et al. 2025, "GPTAQ" (arXiv 2504.02692), with its
    correction of all columns at once. With the gap g, what is added to the residual stream also
    makes up for what the stream lacks of the original's.
    """
    order, upper = factor.order, factor.upper
    if moments.drift is None:
        return weight
    gap = weight @ moments.drift
    if moments.gap is not None:
        gap += moments.gap
    moved = torch.empty_like(gap)
    moved[:, order] = (gap[:, order] @ upper.t()) @ upper
    return weight + moved
