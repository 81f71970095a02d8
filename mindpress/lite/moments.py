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
def scaled(moments: Moments, columns: Float32[Tensor, " channels"] | None) -> Moments:
    """The moments of inputs that are divided by `columns`."""
    if columns is None:
        return moments
    outer = columns.unsqueeze(1) * columns
    drift = None if moments.drift is None else moments.drift / outer
    gap = None if moments.gap is None else moments.gap / columns
    return Moments(moments.hessian / outer, drift, gap)
