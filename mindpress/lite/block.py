"""One decoder block as codes: smooth it, choose its grids, round it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.calib.statistics import InputStatistics
from mindpress.formats.fusion import role_rows
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.lite.awq import Hessian, quadratic, search_scales
from mindpress.lite.clipping import diagonal_blocks, search_extent
from mindpress.lite.rounding import round_to_nearest
from mindpress.lite.sites import Site, sites_of
from mindpress.lite.smoothing import (
    Channels,
    balance,
    per_kv_channel,
    tie_heads,
    weight_importance,
)
from mindpress.models.description import Block, Linear
from mindpress.models.shape import ModelShape

ROWS_REPORTED = 512

Weights = Mapping[str, Tensor]
Statistics = Mapping[str, InputStatistics]
# Channels of each site; their number differs from site to site.
SiteScales = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class BlockTask:
    """What is the same for every block: names, widths, spec, and which linears become codes.

    `stored` is the type of what stays in floats.
    """

    block: Block
    shape: ModelShape
    spec: QuantSpec
    quantized: frozenset[str]
    norm_offset: float
    stored: torch.dtype
    device: torch.device

    def sites(self) -> list[Site]:
        """The sites with a linear to quantize."""
        return [
            site
            for site in sites_of(self.block)
            if any(linear.name in self.quantized for linear in site.linears)
        ]


@dataclass(frozen=True, slots=True)
class BlockCodes:
    """A quantized block: codes by linear, and every other tensor in the stored type."""

    method: str
    codes: dict[str, QuantizedWeight]
    floats: dict[str, Tensor]


@torch.no_grad()
def smoothing_of(
    weights: Weights, statistics: Statistics, task: BlockTask, *, search: bool
) -> SiteScales:
    """The smoothing scale of every site that something is quantized in, by site name.

    Without `search`: alpha 0.5 on max |x| (LMDeploy's default). With it: AWQ's grid on mean |x|.
    """
    scales: SiteScales = {}
    for site in task.sites():
        seen = statistics[site.name]
        inputs = [weights[f"{linear.name}.weight"].to(task.device) for linear in site.linears]
        importance = weight_importance(inputs, task.spec)
        activation = seen.absmean if search else seen.absmax
        if site.producer == "value":
            kv = (task.shape.kv_heads, task.shape.head_dim)
            importance = tie_heads(importance, *kv)
            activation = tie_heads(activation, *kv, reduce="mean" if search else "max")
        if search:
            found = search_scales(inputs, activation, importance, seen.hessian, task.spec)
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
    floats = {name: weights[name] for name in weights if not _is_linear(name, task)}
    for site in sites_of(task.block):
        columns = scales.get(site.name)
        for linear in site.linears:
            weight = _smoothed(weights[f"{linear.name}.weight"], linear, columns, scales, task)
            if linear.name not in task.quantized:
                floats[f"{linear.name}.weight"] = weight
                continue
            extent = None
            if clip is not None:
                blocks = _scaled_blocks(clip[site.name].hessian, columns, task.spec)
                extent = search_extent(weight, blocks, task.spec)
            codes[linear.name] = round_to_nearest(weight, task.spec, extent)
    floats = _smoothed_floats(floats, scales, task)
    return BlockCodes(method, codes, {n: t.to(task.stored).cpu() for n, t in floats.items()})


@torch.no_grad()
def site_errors(
    weights: Weights, result: BlockCodes, task: BlockTask, scales: SiteScales, seen: Statistics
) -> dict[str, float]:
    """Relative output error ||(Q - W) X||^2 / ||W X||^2 of the linears of each site.

    Measured on an even sample of rows.
    """
    errors = {}
    for site in task.sites():
        change, whole = 0.0, 0.0
        hessian, columns = seen[site.name].hessian, scales.get(site.name)
        for linear in site.linears:
            if linear.name not in result.codes:
                continue
            divisors = _row_divisors(linear, scales, task)
            count = result.codes[linear.name].codes.shape[0]
            rows = torch.linspace(0, count - 1, min(count, ROWS_REPORTED)).long()
            rows = rows.to(task.device)
            original = weights[f"{linear.name}.weight"].to(task.device)[rows].float()
            stands_for = result.codes[linear.name].rows(rows).dequantize(torch.float32)
            if divisors is not None:
                stands_for = stands_for * divisors[rows].unsqueeze(1)
            if columns is not None:
                stands_for = stands_for / columns
            change += float(quadratic(stands_for - original, hessian))
            whole += float(quadratic(original, hessian))
        errors[site.name] = change / whole if whole else 0.0
    return errors


def _is_linear(name: str, task: BlockTask) -> bool:
    return any(name == f"{linear.name}.weight" for linear in task.block.linears)


def _smoothed(
    weight: Tensor, linear: Linear, columns: Channels | None, scales: SiteScales, task: BlockTask
) -> Float32[Tensor, "outputs inputs"]:
    """W diag(columns), its producer rows divided by the scale of the site they feed."""
    smoothed = weight.to(task.device, torch.float32, copy=True)  # changed in place: no more copies
    divisors = _row_divisors(linear, scales, task)
    if divisors is not None:
        smoothed.div_(divisors.unsqueeze(1))
    return smoothed if columns is None else smoothed.mul_(columns)


def _row_divisors(linear: Linear, scales: SiteScales, task: BlockTask) -> Tensor | None:
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


def _smoothed_floats(
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
        divisors, name = _row_divisors(linear, scales, task), f"{linear.name}.bias"
        if divisors is not None and name in result:
            result[name] = result[name].to(task.device).float() / divisors
    return result


def _scaled_blocks(hessian: Hessian, columns: Channels | None, spec: QuantSpec) -> Tensor:
    """Diagonal blocks of X^T X for inputs divided by `columns`."""
    blocks = diagonal_blocks(hessian, spec.group_of(hessian.shape[0]))
    if columns is None:
        return blocks
    inverse = (1 / columns).view(blocks.shape[0], -1)
    return blocks * inverse.unsqueeze(1) * inverse.unsqueeze(2)
