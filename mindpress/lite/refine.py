"""Finer codes and scales after a rounding: one coordinate at a time, then the scales at once.

Both go by the slope of the error, [inputs, outputs]: H (Q - W)^T with H the second moments.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight
from mindpress.lite.factor import Hessian
from mindpress.lite.rounding import SMALLEST_SCALE, PerGroup, Weight

WIDTH = 64
# A refitted scale may not leave this multiple of the old one: codes were chosen for that.
MOST_CHANGE = 2.0
RIDGE = 1e-4

Slope = Float32[Tensor, "inputs outputs"]


@torch.no_grad()
def refine(
    weight: Weight, start: QuantizedWeight, hessian: Hessian, sweeps: int
) -> QuantizedWeight:
    """`sweeps` times: every code to its best value given all others, then the scales refitted.

    The error tr((Q - W) hessian (Q - W)^T) of no row grows. Peak memory: the weight in float32
    four times.
    """
    found = start
    for _ in range(sweeps):
        slope = slope_of(weight, found, hessian)
        found = descend(found, hessian, slope)
        found = refit_scales(found, hessian, slope)
    return found


def slope_of(weight: Weight, found: QuantizedWeight, hessian: Hessian) -> Slope:
    """Half the derivative of the error by every element of Q."""
    return hessian @ found.dequantize(torch.float32).sub_(weight).t()


@torch.no_grad()
def descend(start: QuantizedWeight, hessian: Hessian, slope: Slope) -> QuantizedWeight:
    """One sweep of coordinate descent over the codes, all rows at once, grids as they are.

    The best value of column j given the others is q_j - slope_j / hessian_jj, rounded to the grid.
    Changes in a block of columns reach the rest in one product. `slope` is kept up to date.
    """
    size = start.group_size
    scales = start.scales.float().t().contiguous()
    codes = start.codes.t().contiguous()
    steep = hessian.diagonal().clamp(min=torch.finfo(torch.float32).tiny).tolist()
    for first in range(0, len(codes), WIDTH):
        last = min(first + WIDTH, len(codes))
        near, some = slope[first:last].clone(), codes[first:last].float()
        moved = torch.zeros_like(near)
        for index in range(last - first):
            scale = scales[(first + index) // size]
            wanted = near[index].div(scale * -steep[first + index]).add_(some[index])
            wanted.round_().clamp_(0, start.spec.max_code)
            moved[index] = (wanted - some[index]).mul_(scale)
            some[index] = wanted
            near.addr_(hessian[first:last, first + index], moved[index])
        codes[first:last] = some.to(torch.uint8)
        slope.addmm_(hessian[:, first:last], moved)
    return QuantizedWeight(codes.t().contiguous(), start.scales, start.zeros, start.spec)


@torch.no_grad()
def refit_scales(start: QuantizedWeight, hessian: Hessian, slope: Slope) -> QuantizedWeight:
    """The scales with the least output error for the codes as they are, rounded to float16.

    Least squares for each row: with B_g = the group's codes minus its zero and G = B H B^T, the
    error changes by d^T G d + 2 d^T r when the scales change by d, r_g = B_g slope_g; so d solves
    G d = -r. A row whose error would grow keeps its scales.
    """
    gram, rest = _normal_equations(start, hessian, slope)
    old = start.scales.float()
    new = _solve(gram, rest, old).clamp(min=SMALLEST_SCALE).to(torch.float16)
    change = new.double() - old
    grown = ((change.unsqueeze(1) @ gram.double()).squeeze(1) + 2 * rest).mul_(change).sum(-1)
    scales = torch.where((grown < 0).unsqueeze(1), new, start.scales.to(torch.float16))
    return QuantizedWeight(start.codes, scales, start.zeros, start.spec)


def _normal_equations(
    start: QuantizedWeight, hessian: Hessian, slope: Slope
) -> tuple[Float32[Tensor, "outputs groups groups"], PerGroup]:
    """G and r of every row."""
    size, (outputs, count) = start.group_size, start.scales.shape
    steps = start.codes.unflatten(-1, (-1, size)).float() - start.zeros.float().unsqueeze(-1)
    rest = (steps * slope.t().unflatten(-1, (-1, size))).sum(-1)
    gram = torch.empty(outputs, count, count, device=slope.device)
    for group in range(count):
        spread = steps[:, group] @ hessian[group * size : (group + 1) * size]
        gram[:, group] = spread.unflatten(-1, (-1, size)).mul_(steps).sum(-1)
    return gram, rest


def _solve(
    gram: Float32[Tensor, "outputs groups groups"], rest: PerGroup, old: PerGroup
) -> PerGroup:
    """The refitted scales, drawn a little to the old ones where codes say nothing about them."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(-1)
    ridge = (RIDGE * mean).clamp(min=torch.finfo(torch.float32).tiny).view(-1, 1)
    damped = gram + torch.diag_embed(ridge.expand_as(old))
    moved, _ = torch.linalg.solve_ex(damped.double(), rest.double().neg())
    new = (old + moved.float()).nan_to_num_(nan=0.0)
    return torch.where((new > old / MOST_CHANGE) & (new < old * MOST_CHANGE), new, old)
