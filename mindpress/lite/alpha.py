"""SmoothQuant's search for the share of the difficulty that weights take from activations.

Source: Xiao et al. 2022, "SmoothQuant", equation 4, s_j = max|x_j|^alpha / max|w_j|^(1 - alpha).
The paper takes one alpha for a model; here each site has its own, by the error it leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.kernels.matmul_w8a8.weight import quantize_weight
from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.lite.smoothing import Channels, balance

Weights = Sequence[Float[Tensor, "_ channels"]]
Rows = Float32[Tensor, "rows channels"]
Products = Float32[Tensor, "rows _"]

# 0.3, 0.35 ... 0.9; without smoothing is tried, too.
ALPHAS = tuple(step / 20 for step in range(6, 19))
# The scale is shared by all outputs, so the best one is found on an even sample of them.
OUTPUTS_SEARCHED = 1024


@dataclass(frozen=True, slots=True)
class AlphaSearch:
    """The best scales, and alpha (None: no smoothing, all scales are 1).

    Errors are squared, relative to the squared outputs, on the rows and outputs searched.
    """

    scales: Channels
    alpha: float | None
    error: float
    plain_error: float


@torch.no_grad()
def search_alpha(
    weights: Weights,
    rows: Rows,
    activation: Channels,
    importance: Channels,
    alphas: Sequence[float] = ALPHAS,
) -> AlphaSearch:
    """Scales s for the inputs of `weights` that minimise ||Q(x / s) Q(W s)^T - x W^T||^2.

    Q rounds to int8: activations with a scale for each token, as the kernels do, weights with one
    for each output. `activation` is max |x| over all tokens, `importance` max |w| over all outputs.
    Peak memory: the outputs searched in float32 three times, [rows, outputs] twice.
    """
    sampled = [_sample(weight) for weight in weights]
    targets = [rows @ weight.T for weight in sampled]
    whole = sum(float(target.square().sum()) for target in targets) or 1.0

    def error_of(scales: Channels) -> float:
        return int8_error(sampled, targets, rows, scales) / whole

    none = torch.ones_like(activation)
    plain = error_of(none)
    best = AlphaSearch(none, None, plain, plain)
    for alpha in alphas:
        scales = balance(activation, importance, alpha)
        error = error_of(scales)
        if error < best.error:
            best = AlphaSearch(scales, alpha, error, plain)
    return best


def int8_error(weights: Weights, targets: list[Products], rows: Rows, scales: Channels) -> float:
    """||Q(x / s) Q(W s)^T - target||^2 summed over the linears."""
    x = quantize_rows_reference(rows / scales).dequantize()
    total = 0.0
    for weight, target in zip(weights, targets, strict=True):
        total += float(
            (x @ quantize_weight(weight * scales).dequantize().T - target).square().sum()
        )
    return total


def largest_weights(weights: Weights) -> Channels:
    """max |w| of each input channel over the outputs of all linears."""
    return torch.stack([weight.abs().amax(0).float() for weight in weights]).amax(0)


def _sample(weight: Float[Tensor, "outputs channels"]) -> Float32[Tensor, "_ channels"]:
    outputs = weight.shape[0]
    if outputs <= OUTPUTS_SEARCHED:
        return weight.float()
    chosen = torch.linspace(0, outputs - 1, OUTPUTS_SEARCHED, device=weight.device).long()
    return weight[chosen].float()
