"""The weight that would give the original output on the inputs that quantized blocks make.

With H = sum of x x^T over inputs x, and t what the original model has in their place, the best
weight W' for the outputs W t + g is the ridge solution W' = W + (W drift + gap) (H + damping)^-1,
and ||Q x - W t - g||^2 = ||(Q - W') x||^2 + what no Q changes. So rounding W' against H is the
asymmetric calibration of Li et al. 2025, "GPTAQ" (arXiv 2504.02692), with its correction of all
columns at once. With the gap g, what is added to the residual stream also makes up for what the
stream lacks of the original's.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.lite.factor import InverseFactor
from mindpress.lite.moments import Moments

ROWS_AT_ONCE = 512

Missing = Float32[Tensor, "outputs inputs"]


@torch.no_grad()
def missing(weight: Float32[Tensor, "outputs inputs"], moments: Moments) -> Missing | None:
    """W drift + gap: what the outputs lack, against the inputs. None when there is no aim."""
    if moments.drift is None:
        return None
    lacking = weight @ moments.drift
    return lacking if moments.gap is None else lacking.add_(moments.gap)


@torch.no_grad()
def aim(weight: Float32[Tensor, "outputs inputs"], lacking: Missing, factor: InverseFactor) -> None:
    """Make `weight` W', in place, in bands of rows."""
    order, upper = factor.order, factor.upper
    for start in range(0, len(weight), ROWS_AT_ONCE):
        band = slice(start, start + ROWS_AT_ONCE)
        weight[band, order] += lacking[band][:, order] @ upper.t() @ upper
