"""AWQ's search for smoothing scales (Lin et al. 2023, "AWQ", section 3.2, equation 4).

The error of a candidate is measured on the output of the linears over all calibration tokens:
for a weight change D it is tr(D H D^T) with H = X^T X, so tokens need not be kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.formats.quantized import QuantSpec
from mindpress.lite.rounding import rounded
from mindpress.lite.smoothing import Channels, balance

Weights = list[Float[Tensor, "_ channels"]]
Hessian = Float32[Tensor, "channels channels"]

STEPS = 20
# The scale is shared by all rows, so the best one is found on an even sample of them.
ROWS_SEARCHED = 1024
ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class ScaleSearch:
    """The best scales, their output error and that of plain rounding (on the rows searched)."""

    scales: Channels
    alpha: float
    error: float
    plain_error: float


@torch.no_grad()
def search_scales(
    weights: Weights, activation: Channels, importance: Channels, hessian: Hessian, spec: QuantSpec
) -> ScaleSearch:
    """Scales s for the inputs of `weights` that minimise ||(Q(W s) / s - W) X||^2.

    Tried: s = a^alpha / w^(1 - alpha) and s = a^alpha for alpha = 0, 1/20 ... 19/20; the second
    with alpha = 0 is plain rounding, which is kept unless something is better.
    `activation` is mean |x|, `importance` the mean relative weight (both per channel).
    """
    sampled = [_sample_rows(weight) for weight in weights]
    best_scales = torch.ones_like(activation)
    plain = best = output_error(sampled, best_scales, hessian, spec)
    best_alpha = 0.0
    for alpha, scales in _candidates(activation, importance):
        error = output_error(sampled, scales, hessian, spec)
        if error < best:
            best_scales, best_alpha, best = scales, alpha, error
    return ScaleSearch(best_scales, best_alpha, best, plain)


@torch.no_grad()
def output_error(weights: Weights, scales: Channels, hessian: Hessian, spec: QuantSpec) -> float:
    """tr(D H D^T) summed over the linears, D = Q(W diag(s)) diag(1/s) - W."""
    total = 0.0
    for weight in weights:
        for rows in weight.split(ROWS_AT_ONCE):
            change = rounded(rows * scales, spec).div_(scales).sub_(rows)
            total += float(quadratic(change, hessian))
    return total


def quadratic(change: Float32[Tensor, "rows channels"], hessian: Hessian) -> Tensor:
    """tr(change H change^T)."""
    return (change @ hessian).mul_(change).sum()


def _candidates(activation: Channels, importance: Channels) -> Iterator[tuple[float, Channels]]:
    for step in range(STEPS):
        alpha = step / STEPS
        yield alpha, balance(activation, importance, alpha)
        if step:
            yield alpha, balance(activation, importance, alpha, beta=0.0)


def _sample_rows(weight: Float[Tensor, "rows channels"]) -> Float32[Tensor, "_ channels"]:
    rows = weight.shape[0]
    if rows <= ROWS_SEARCHED:
        return weight.float()
    chosen = torch.linspace(0, rows - 1, ROWS_SEARCHED, device=weight.device).long()
    return weight[chosen].float()
