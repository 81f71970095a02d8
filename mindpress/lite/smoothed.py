"""A block's tensors with smoothing scales in them: it computes the same."""

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.formats.fusion import role_rows
from mindpress.lite.sites import sites_of
from mindpress.lite.smoothing import Channels, per_kv_channel
from mindpress.lite.task import BlockTask, SiteScales
from mindpress.models.description import Linear


def is_linear(name: str, task: BlockTask) -> bool:
    """Whether a tensor of the block is the weight of one of its linears."""
    return any(name == f"{linear.name}.weight" for linear in task.block.linears)


def smoothed_weight(
    weight: Tensor, linear: Linear, columns: Channels | None, scales: SiteScales, task: BlockTask
) -> Float32[Tensor, "outputs inputs"]:
    """W diag(columns), its producer rows divided by the scale of the site they feed."""
    smoothed = weight.to(task.device, torch.float32, copy=True)  # changed in place: no more copies
    divisors = row_divisors(linear, scales, task)
    if divisors is not None:
        smoothed.div_(divisors.unsqueeze(1))
    return smoothed if columns is None else smoothed.mul_(columns)


def row_divisors(linear: Linear, scales: SiteScales, task: BlockTask) -> Tensor | None:
    """What the output rows of `linear` are divided by; None when they feed no scaled site."""
    for site in sites_of(task.block):
        if site.producer not in linear.roles or site.name not in scales:
            continue
        divisor = scales[site.name]
        if site.producer == "value":
            divisor = per_kv_channel(divisor, task.shape.kv_heads, task.shape.head_dim)
        rows = role_rows(linear, task.shape)
        total = sum(len(part) for part in rows.values())
        divisors = torch.ones(total, device=task.device)
        divisors[rows[site.producer].to(task.device)] = divisor
        return divisors
    return None


def smoothed_floats(
    floats: dict[str, Tensor], scales: SiteScales, task: BlockTask
) -> dict[str, Tensor]:
    """Norms and biases with the inverse scales in them."""
    result = dict(floats)
    for site in sites_of(task.block):
        scale, name = scales.get(site.name), f"{site.norm}.weight"
        if site.norm and scale is not None:
            gain = result[name].to(task.device).float() + task.norm_offset
            result[name] = gain / scale - task.norm_offset
    for linear in task.block.linears:
        divisors, name = row_divisors(linear, scales, task), f"{linear.name}.bias"
        if divisors is not None and name in result:
            result[name] = result[name].to(task.device).float() / divisors
    return result
