"""One decoder block as codes by error-compensated rounding, from site to site."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mindpress.calib.lent import Lender
from mindpress.formats.quantized import QuantizedWeight
from mindpress.lite.aim import aim, missing
from mindpress.lite.awq import quadratic
from mindpress.lite.compensated import Compensation, compensate, damp
from mindpress.lite.factor import factorize
from mindpress.lite.follow import SiteInputs
from mindpress.lite.moments import scale
from mindpress.lite.site_errors import ROWS_REPORTED
from mindpress.lite.sites import Site, sites_of
from mindpress.lite.smoothed import is_linear, row_divisors, smoothed_floats, smoothed_weight
from mindpress.lite.task import BlockCodes, BlockTask, SiteScales, Weights
from mindpress.memory import give_back
from mindpress.models.tensors import linear_shape


@dataclass(frozen=True, slots=True)
class Compensated:
    """A block, and the relative output error of each site: ||(Q - W') x||^2 / ||W' x||^2 on the
    inputs x that the quantized linears before it make, for the weight W' that was aimed at.
    """

    codes: BlockCodes
    sites: dict[str, float]


@dataclass(frozen=True, slots=True)
class _SiteCodes:
    """The codes of a site's linears, one after the other; the damping that its inputs needed
    where that was more than planned.
    """

    codes: QuantizedWeight
    raised: float | None
    error: float


@torch.no_grad()
def compensate_block(
    weights: Weights, task: BlockTask, scales: SiteScales, inputs: SiteInputs, method: str
) -> Compensated:
    """Apply `scales` (none for a site means 1) and round with compensation.

    Linears that read one input are rounded as one. Peak memory beside the codes: three matrices of
    the size of a site's X^T X, or two and the site's weights in float32 twice.
    """
    options = task.compensation or Compensation()
    codes: dict[str, QuantizedWeight] = {}
    floats = {name: weights[name] for name in weights if not is_linear(name, task)}
    notes: list[str] = []
    errors: dict[str, float] = {}
    with inputs.begun():
        for site in sites_of(task.block):
            names = [x.name for x in site.linears if x.name in task.quantized]
            for linear in site.linears:
                if linear.name not in names:
                    name = f"{linear.name}.weight"
                    columns = scales.get(site.name)
                    floats[name] = smoothed_weight(weights[name], linear, columns, scales, task)
            if not names:
                continue
            found = _round_site(site, weights, task, scales, inputs, options)
            if found.raised:
                notes.append(f"{site.name}: damping raised to {found.raised:g}")
            errors[site.name] = found.error
            codes |= _parted(found.codes, site, task)
            _replace(codes, site, task, scales, inputs)
            give_back()
    floats = smoothed_floats(floats, scales, task)
    stored = {name: tensor.to(task.stored).cpu() for name, tensor in floats.items()}
    return Compensated(BlockCodes(method, codes, stored, tuple(notes)), errors)


def _round_site(
    site: Site,
    weights: Weights,
    task: BlockTask,
    scales: SiteScales,
    inputs: SiteInputs,
    options: Compensation,
) -> _SiteCodes:
    columns = scales.get(site.name)
    moments = scale(inputs.at(site), columns)
    hessian = moments.hessian
    weight = torch.cat(
        [
            smoothed_weight(weights[f"{linear.name}.weight"], linear, columns, scales, task)
            for linear in site.linears
            if linear.name in task.quantized
        ]
    )
    lacking = missing(weight, moments)
    del moments  # its drift is as large as the Hessian
    damping = options.damping_of(len(hessian))
    factor = factorize(hessian, damping, by_importance=options.by_importance)
    if lacking is not None:
        aim(weight, lacking, factor)
        del lacking
    damped = damp(hessian, factor)
    codes = compensate(weight, damped, task.spec_of(site), options)
    hessian.diagonal().sub_(factor.added)
    raised = factor.damping if factor.damping > damping else None
    return _SiteCodes(codes, raised, _error(weight, codes, hessian))


def _error(weight: Tensor, codes: QuantizedWeight, hessian: Tensor) -> float:
    """On an even sample of rows."""
    rows = torch.linspace(0, len(weight) - 1, min(len(weight), ROWS_REPORTED)).long()
    rows = rows.to(weight.device)
    change = codes.rows(rows).dequantize(torch.float32).sub_(weight[rows])
    whole = float(quadratic(weight[rows], hessian))
    return float(quadratic(change, hessian)) / whole if whole else 0.0


def _parted(found: QuantizedWeight, site: Site, task: BlockTask) -> dict[str, QuantizedWeight]:
    codes, start = {}, 0
    for linear in site.linears:
        if linear.name in task.quantized:
            end = start + linear_shape(linear, task.shape)[0]
            codes[linear.name] = found.rows(slice(start, end))
            start = end
    return codes


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
        if linear.name in codes:
            divisors = row_divisors(linear, scales, task)
            inputs.replace(linear.name, _stands_for(codes[linear.name], divisors, columns))


def _stands_for(codes: QuantizedWeight, divisors: Tensor | None, columns: Tensor | None) -> Lender:
    def weight() -> Tensor:
        found = codes.dequantize(torch.float32)
        if divisors is not None:
            found.mul_(divisors.unsqueeze(1))
        return found if columns is None else found.div_(columns)

    return weight
