"""Error-compensated rounding: what one column loses, the columns after it make up for.

Frantar et al. 2022, "GPTQ", with the grid of every group fixed before its first column is visited
("static groups"), so that columns can be visited in any order and the file needs no index of it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.lite.clipping import search_extent
from mindpress.lite.columns import visit_columns
from mindpress.lite.factor import Hessian, InverseFactor, damped, factorize
from mindpress.lite.refine import refine
from mindpress.lite.rounding import Weight, full_extent, grid, grouped, round_to_nearest


@dataclass(frozen=True, slots=True)
class Compensation:
    """`damping` is a share of the mean of diag(X^T X).

    With `by_importance` columns are visited by falling diagonal, else from left to right.
    `clip` searches the range of every grid first; `sweeps` of refinement follow.
    """

    damping: float = 0.01
    by_importance: bool = True
    clip: bool = False
    sweeps: int = 0


@torch.no_grad()
def compensated(
    weight: Weight, hessian: Hessian, spec: QuantSpec, options: Compensation | None = None
) -> QuantizedWeight:
    """Codes Q for `weight` W with a small tr((Q - W) hessian (Q - W)^T).

    No row is worse than rounded to nearest, and with a diagonal Hessian nothing else comes out.
    Raises ConfigError when groups do not fill the rows, NumericError when the Hessian is NaN or
    infinite. Peak memory: the weight in float32 five times, and what `factorize` takes.
    """
    options = options or Compensation()
    factor = factorize(hessian, options.damping, by_importance=options.by_importance)
    return compensate(weight, hessian, factor, spec, options)


@torch.no_grad()
def compensate(
    weight: Weight,
    hessian: Hessian,
    factor: InverseFactor,
    spec: QuantSpec,
    options: Compensation,
) -> QuantizedWeight:
    """`compensated` with the factor at hand."""
    groups = grouped(weight, spec)
    whole = groups.flatten(-2)
    extent = full_extent(groups)
    if options.clip:
        extent = search_extent(whole, importance(factor, groups.shape[2]), spec)
    scales, zeros = grid(extent, spec)
    found = QuantizedWeight(
        codes=visit_columns(whole, factor, scales, zeros, spec),
        scales=scales.to(torch.float16),
        zeros=zeros.to(torch.uint8),
        spec=spec,
    )
    if options.sweeps:
        found = refine(whole, found, damped(hessian, factor.damping), options.sweeps)
    return _better_rows(whole, hessian, found, round_to_nearest(whole, spec))


def importance(factor: InverseFactor, size: int) -> Float32[Tensor, "groups size"]:
    """What a squared error of each input costs once the columns after it have made up for it:
    1 over the factor's squared diagonal (Frantar et al. 2022, equation 2).
    """
    cost = torch.empty_like(factor.upper[0])
    cost[factor.order] = factor.upper.diagonal().square().reciprocal()
    return cost.view(-1, size)


def _better_rows(
    weight: Weight, hessian: Hessian, found: QuantizedWeight, plain: QuantizedWeight
) -> QuantizedWeight:
    """`found`, but a row where `plain` disturbs the output less is plain."""
    worse = _row_errors(weight, hessian, found) > _row_errors(weight, hessian, plain)
    rows = worse.nonzero().flatten()
    for part in ("codes", "scales", "zeros"):
        getattr(found, part)[rows] = getattr(plain, part)[rows]
    return found


def _row_errors(
    weight: Weight, hessian: Hessian, codes: QuantizedWeight
) -> Float[Tensor, " outputs"]:
    change = codes.dequantize(torch.float32).sub_(weight)
    return (change @ hessian).mul_(change).sum(-1)
