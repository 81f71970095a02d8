"""One decoder block in int8 weights for int8 activations: smooth it, then round it.

Source: Xiao et al. 2022, "SmoothQuant". Weights have a scale for each output, symmetric;
activations are rounded while the model runs, with a scale for each token.
"""

from collections.abc import Mapping

import torch

from mindpress.formats.quantized import QuantizedWeight
from mindpress.kernels.matmul_w8a8.weight import quantize_weight
from mindpress.lite.alpha import AlphaSearch, largest_weights, search_alpha
from mindpress.lite.row_sample import RowSample
from mindpress.lite.sites import Site, sites_of
from mindpress.lite.smoothed import is_linear, smoothed_floats, smoothed_weight
from mindpress.lite.smoothing import tie_heads
from mindpress.lite.task import BlockCodes, BlockTask, SiteScales, Weights

Rows = Mapping[str, RowSample]


@torch.no_grad()
def search_block(weights: Weights, seen: Rows, task: BlockTask) -> dict[str, AlphaSearch]:
    """The best alpha of every site that something is quantized in, by site name.

    Between values and the attention output, query heads of a group share the scales of the value
    channels they read.
    """
    return {site.name: _search_site(weights, seen[site.name], site, task) for site in task.sites()}


def _search_site(weights: Weights, seen: RowSample, site: Site, task: BlockTask) -> AlphaSearch:
    """Only linears that become codes count."""
    names = [linear.name for linear in site.linears if linear.name in task.quantized]
    inputs = [weights[f"{name}.weight"].to(task.device) for name in names]
    activation, importance = seen.absmax, largest_weights(inputs)
    if site.producer == "value":
        kv = (task.shape.kv_heads, task.shape.head_dim)
        activation = tie_heads(activation, *kv, reduce="max")
        importance = tie_heads(importance, *kv, reduce="max")
    return search_alpha(inputs, seen.rows, activation, importance)


@torch.no_grad()
def int8_block(weights: Weights, task: BlockTask, scales: SiteScales, method: str) -> BlockCodes:
    """Apply `scales` (none for a site means 1) and round the weights.

    Scales of weights stay float32: four bytes an output, and rows that smoothing made small keep
    all their codes. Peak memory: the codes, and one linear in float32 a few times over.
    """
    codes: dict[str, QuantizedWeight] = {}
    floats = {name: weights[name] for name in weights if not is_linear(name, task)}
    for site in sites_of(task.block):
        columns = scales.get(site.name)
        for linear in site.linears:
            stored = weights[f"{linear.name}.weight"]
            weight = smoothed_weight(stored, linear, columns, scales, task)
            if linear.name in task.quantized:
                codes[linear.name] = quantize_weight(weight).quantized()
            else:
                floats[f"{linear.name}.weight"] = weight
    floats = smoothed_floats(floats, scales, task)
    return BlockCodes(method, codes, {n: t.to(task.stored).cpu() for n, t in floats.items()})
