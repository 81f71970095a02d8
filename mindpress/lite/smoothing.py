"""Scales that move difficulty from weights to activations, channel by channel.

A linear computes W x = (W diag(s)) (diag(1/s) x); the 1/s goes into what produces x: the norm
before it, the value rows of the attention or the up rows of the MLP.
Sources: Xiao et al. 2022, "SmoothQuant", equation 4; LMDeploy 0.5.3, lite/quantization/awq.py.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.formats.quantized import QuantSpec

SMALLEST = 1e-4
ROWS_AT_ONCE = 512

Channels = Float32[Tensor, " channels"]


def weight_importance(weights: list[Float[Tensor, "_ channels"]], spec: QuantSpec) -> Channels:
    """w_s[c]: mean over all rows of |W[row, c]| / max of |W[row, .]| over c's group.

    Source: AutoAWQ 0.2.9, quantizer.py, `_search_best_scale`; the same in LMDeploy.
    """
    total = torch.zeros(weights[0].shape[1], device=weights[0].device)
    for rows in (rows for weight in weights for rows in weight.split(ROWS_AT_ONCE)):
        groups = rows.float().abs().unflatten(-1, (-1, spec.group_of(rows.shape[1])))
        largest = groups.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        total += (groups / largest).flatten(-2).sum(0)
    return total / sum(weight.shape[0] for weight in weights)


def balance(
    activation: Channels, importance: Channels, alpha: float, beta: float | None = None
) -> Channels:
    """s = a^alpha / w^beta, clamped and centred: s / sqrt(max s * min s); beta is 1 - alpha.

    With alpha = 0.5 and a = max|x| this is LMDeploy's default smoothing; with a = mean|x| and
    alpha from a grid it is AWQ's (Lin et al. 2023, equation 4, with AutoAWQ's duo scaling).
    A channel that is never active, or whose weights are all zero, keeps scale 1.
    """
    exponent = 1 - alpha if beta is None else beta
    alive = (activation > 0) & (importance > 0)
    if not alive.any():
        return torch.ones_like(activation)
    safe_a, safe_w = activation.where(alive, 1.0), importance.where(alive, 1.0)
    scales = (safe_a**alpha / safe_w**exponent).clamp(min=SMALLEST)
    centre = (scales[alive].max() * scales[alive].min()).sqrt()
    return (scales / centre).where(alive, 1.0)


def tie_heads(channels: Channels, kv_heads: int, head_dim: int, reduce: str = "mean") -> Channels:
    """One value per kv channel, shared by the query heads of its group, back in [heads * dim].

    Grouped-query attention feeds each value channel to several query heads' slots of the output
    projection, so those slots must share a scale for it to move into the value rows.
    """
    grouped = channels.view(kv_heads, -1, head_dim)
    one = grouped.amax(1, keepdim=True) if reduce == "max" else grouped.mean(1, keepdim=True)
    return one.expand_as(grouped).flatten()


def per_kv_channel(tied: Channels, kv_heads: int, head_dim: int) -> Float32[Tensor, " kv_channels"]:
    """The value rows' share of a tied scale: [kv_heads * head_dim]."""
    return tied.view(kv_heads, -1, head_dim)[:, 0].flatten()
