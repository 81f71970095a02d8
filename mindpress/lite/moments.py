"""Second moments of what the linears of a site are fed."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.lite.factor import Hessian


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of a site's inputs x: the sum of x x^T over tokens.

    `drift` is the sum of (t - x) x^T for the inputs t that the original model has in their place,
    and `gap` of (g x^T) for what the residual stream, which the site's output is added to, lacks
    of the original's; None when there is nothing to aim at.
    """

    hessian: Hessian
    drift: Hessian | None = None
    gap: Float32[Tensor, "outputs inputs"] | None = None


@torch.no_grad()
def scale(moments: Moments, columns: Float32[Tensor, " channels"] | None) -> Moments:
    """Make them, in place, those of inputs that are divided by `columns`; the same ones again."""
    if columns is not None:
        moments.hessian.div_(columns).div_(columns.unsqueeze(1))
        if moments.drift is not None:
            moments.drift.div_(columns).div_(columns.unsqueeze(1))
        if moments.gap is not None:
            moments.gap.div_(columns)
    return moments
