"""Error-compensated rounding: what one column loses, the columns after it make up for.

Frantar et al. 2022, "GPTQ", with the grid of every group fixed before its first column is visited
("static groups"), so that columns can be visited in any order and the file needs no index of it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight, QuantSpec, stack_rows
from mindpress.lite.clipping import search_extent
from mindpress.lite.columns import visit_columns
from mindpress.lite.factor import Hessian, InverseFactor, factorize
from mindpress.lite.refine import refine
from mindpress.lite.rounding import Weight, full_extent, grid, grouped, round_to_nearest

# A band of rows in float32: enough to keep the device busy, little beside the Hessian.
BAND_BYTES = {"cpu": 2**24, "gpu": 2**28}


@dataclass(frozen=True, slots=True)
class Compensation:
    """`damping` is a share of the mean of diag(X^T X).

    `tokens` is over how many that was summed, if known: where they are fewer than the inputs,
    damping is raised in the same proportion. With `by_importance` columns are visited by falling
    diagonal, else from left to right. `clip` searches the range of every grid first; `sweeps` of
    refinement follow.
    """

    damping: float = 0.01
    by_importance: bool = True
    clip: bool = False
    sweeps: int = 0
    tokens: int | None = None

    def damping_of(self, inputs: int) -> float:
        """The damping of a layer of so many inputs."""
        return self.damping * (1.0 if self.tokens is None else max(1.0, inputs / self.tokens))


@dataclass(frozen=True, slots=True)
class DampedHessian:
    """X^T X with what the factor of its inverse has `added` to its diagonal."""

    hessian: Hessian
    factor: InverseFactor


def damp(hessian: Hessian, factor: InverseFactor) -> DampedHessian:
    """Add the factor's damping to the Hessian, in place."""
    hessian.diagonal().add_(factor.added)
    return DampedHessian(hessian, factor)


@torch.no_grad()
def compensated(
    weight: Weight, hessian: Hessian, spec: QuantSpec, options: Compensation | None = None
) -> QuantizedWeight:
    """Codes Q for `weight` W with a small tr((Q - W) hessian (Q - W)^T).

    No row is worse than rounded to nearest, and with a diagonal Hessian nothing else comes out.
    Raises ConfigError when groups do not fill the rows, NumericError when the Hessian is NaN or
    infinite. Peak memory: the codes, two matrices of the Hessian's size, and what `compensate`
    takes.
    """
    options = options or Compensation()
    damping = options.damping_of(len(hessian))
    factor = factorize(hessian, damping, by_importance=options.by_importance)
    return compensate(weight, damp(hessian.clone(), factor), spec, options)


@torch.no_grad()
def compensate(
    weight: Weight, damped: DampedHessian, spec: QuantSpec, options: Compensation
) -> QuantizedWeight:
    """`compensated` with the factor at hand.

    Rows do not touch one another, so they are done in bands. Peak memory beside the codes: a band
    in float32 six times.
    """
    grouped(weight[:1], spec)  # refuses groups that do not fill a row
    bands = weight.split(_rows_at_once(weight))
    return stack_rows([_compensate_band(band.float(), damped, spec, options) for band in bands])


def _rows_at_once(weight: Weight) -> int:
    size = BAND_BYTES["cpu" if weight.device.type == "cpu" else "gpu"]
    return max(1, min(len(weight), size // (4 * weight.shape[1])))


def _compensate_band(
    weight: Weight, damped: DampedHessian, spec: QuantSpec, options: Compensation
) -> QuantizedWeight:
    extent = full_extent(grouped(weight, spec))
    if options.clip:
        cost = importance(damped.factor, spec.group_of(weight.shape[1]))
        extent = search_extent(weight, cost, spec)
    scales, zeros = grid(extent, spec)
    found = QuantizedWeight(
        codes=visit_columns(weight, damped.factor, scales, zeros, spec),
        scales=scales.to(torch.float16),
        zeros=zeros.to(torch.uint8),
        spec=spec,
    )
    found = refine(weight, found, damped.hessian, options.sweeps)
    plain = round_to_nearest(weight, spec)
    worse = _row_errors(weight, damped, found) > _row_errors(weight, damped, plain)
    rows = worse.nonzero().flatten()
    for part in ("codes", "scales", "zeros"):
        getattr(found, part)[rows] = getattr(plain, part)[rows]
    return found


def importance(factor: InverseFactor, size: int) -> Float32[Tensor, "groups size"]:
    """What a squared error of each input costs once the columns after it have made up for it:
    1 over the factor's squared diagonal (Frantar et al. 2022, equation 2).
    """
    cost = torch.empty_like(factor.upper[0])
    cost[factor.order] = factor.upper.diagonal().square().reciprocal()
    return cost.view(-1, size)


def _row_errors(
    weight: Weight, damped: DampedHessian, codes: QuantizedWeight
) -> Float[Tensor, " outputs"]:
    """Without the damping."""
    change = codes.dequantize(torch.float32).sub_(weight)
    return (change @ damped.hessian).sub_(change, alpha=damped.factor.added).mul_(change).sum(-1)
