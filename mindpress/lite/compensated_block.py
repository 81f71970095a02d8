"""One decoder block as codes by error-compensated rounding, from site to site."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight
from mindpress.lite.aim import aimed
from mindpress.lite.compensated import Compensation, compensate
from mindpress.lite.factor import factorize
from mindpress.lite.follow import SiteInputs
from mindpress.lite.moments import Moments, scaled
from mindpress.lite.sites import Site, sites_of
from mindpress.lite.smoothed import is_linear, row_divisors, smoothed_floats, smoothed_weight
from mindpress.lite.task import BlockCodes, BlockTask, SiteScales, Weights


@dataclass(frozen=True, slots=True)
class _SiteCodes:
    """The codes of a site's linears by name, and the damping that its inputs needed."""

    codes: dict[str, QuantizedWeight]
    damping: float


@torch.no_grad()
def compensate_block(
    weights: Weights, task: BlockTask, scales: SiteScales, inputs: SiteInputs, method: str
) -> BlockCodes:
    """Apply `scales` (none for a site means 1) and round with compensation.

    Linears that read one input are rounded as one. Peak memory: a site's weights in float32 five
    times, and what `factorize` takes for its inputs.
    """
    options = task.compensation or Compensation()
    inputs.begin()
    codes: dict[str, QuantizedWeight] = {}
    floats = {name: weights[name] for name in weights if not is_linear(name, task)}
    notes: list[str] = []
    for site in sites_of(task.block):
        chosen = {}
        for linear in site.linears:
            name, columns = f"{linear.name}.weight", scales.get(site.name)
            weight = smoothed_weight(weights[name], linear, columns, scales, task)
            if linear.name in task.quantized:
                chosen[linear.name] = weight
            else:
                floats[name] = weight
        if not chosen:
            continue
        found = _round_site(chosen, scaled(inputs.at(site), scales.get(site.name)), task, options)
        codes |= found.codes
        if found.damping > options.damping:
            notes.append(f"{site.name}: damping raised to {found.damping:g}")
        _replace(found.codes, site, task, scales, inputs)
    floats = smoothed_floats(floats, scales, task)
    stored = {name: tensor.to(task.stored).cpu() for name, tensor in floats.items()}
    return BlockCodes(method, codes, stored, tuple(notes))


def _round_site(
    chosen: dict[str, Tensor], moments: Moments, task: BlockTask, options: Compensation
) -> _SiteCodes:
    factor = factorize(moments.hessian, options.damping, by_importance=options.by_importance)
    whole = aimed(torch.cat(list(chosen.values())), moments, factor)
    found = compensate(whole, moments.hessian, factor, task.spec, options)
    codes, start = {}, 0
    for name, weight in chosen.items():
        codes[name] = found.rows(slice(start, start + len(weight)))
        start += len(weight)
    return _SiteCodes(codes, factor.damping)


def _replace(
    codes: dict[str, QuantizedWeight],
    site: Site,
    task: BlockTask,
    scales: SiteScales,
    inputs: SiteInputs,
) -> None:
    """The block goes on with what the codes stand for, the smoothing taken out again."""
    columns = scales.get(site.name)
    for linear in site.linears:
        if linear.name not in codes:
            continue
        weight: Float32[Tensor, "_ _"] = codes[linear.name].dequantize(torch.float32)
        divisors = row_divisors(linear, scales, task)
        if divisors is not None:
            weight = weight * divisors.unsqueeze(1)
        inputs.replace(linear.name, weight if columns is None else weight / columns)
