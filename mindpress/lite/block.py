"""One decoder block as codes: smooth it, choose its grids, round it."""

import torch
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.lite.awq import Hessian, search_scales
from mindpress.lite.clipping import diagonal_blocks, search_extent
from mindpress.lite.rounding import round_to_nearest
from mindpress.lite.sites import sites_of
from mindpress.lite.smoothed import is_linear, smoothed_floats, smoothed_weight
from mindpress.lite.smoothing import Channels, balance, tie_heads, weight_importance
from mindpress.lite.task import BlockCodes, BlockTask, SiteScales, Statistics, Weights


@torch.no_grad()
def smoothing_of(
    weights: Weights, statistics: Statistics, task: BlockTask, *, search: bool
) -> SiteScales:
    """The smoothing scale of every site that something is quantized in, by site name.

    Without `search`: alpha 0.5 on max |x| (LMDeploy's default). With it: AWQ's grid on mean |x|.
    Nothing where the task does not smooth.
    """
    scales: SiteScales = {}
    if not task.smooths:
        return scales
    for site in task.sites():
        seen = statistics[site.name]
        inputs = [weights[f"{linear.name}.weight"].to(task.device) for linear in site.linears]
        spec = task.spec_of(site)
        importance = weight_importance(inputs, spec)
        activation = seen.absmean if search else seen.absmax
        if site.producer == "value":
            kv = (task.shape.kv_heads, task.shape.head_dim)
            importance = tie_heads(importance, *kv)
            activation = tie_heads(activation, *kv, reduce="mean" if search else "max")
        if search:
            found = search_scales(inputs, activation, importance, seen.hessian, spec)
            scales[site.name] = found.scales
        else:
            scales[site.name] = balance(activation, importance, alpha=0.5)
    return scales


@torch.no_grad()
def quantize_block(
    weights: Weights, task: BlockTask, scales: SiteScales, clip: Statistics | None, method: str
) -> BlockCodes:
    """Apply `scales` (none for a site means 1) and round; `clip` asks for the extent search.

    Peak memory: the codes, one byte a weight, and one linear in float32 a few times over.
    """
    codes: dict[str, QuantizedWeight] = {}
    floats = {name: weights[name] for name in weights if not is_linear(name, task)}
    for site in sites_of(task.block):
        columns, spec = scales.get(site.name), task.spec_of(site)
        for linear in site.linears:
            weight = smoothed_weight(
                weights[f"{linear.name}.weight"], linear, columns, scales, task
            )
            if linear.name not in task.quantized:
                floats[f"{linear.name}.weight"] = weight
                continue
            extent = None
            if clip is not None:
                blocks = _scaled_blocks(clip[site.name].hessian, columns, spec)
                extent = search_extent(weight, blocks, spec)
            codes[linear.name] = round_to_nearest(weight, spec, extent)
    floats = smoothed_floats(floats, scales, task)
    return BlockCodes(method, codes, {n: t.to(task.stored).cpu() for n, t in floats.items()})


def _scaled_blocks(hessian: Hessian, columns: Channels | None, spec: QuantSpec) -> Tensor:
    """Diagonal blocks of X^T X for inputs divided by `columns`."""
    blocks = diagonal_blocks(hessian, spec.group_of(hessian.shape[0]))
    if columns is None:
        return blocks
    inverse = (1 / columns).view(blocks.shape[0], -1)
    return blocks * inverse.unsqueeze(1) * inverse.unsqueeze(2)
