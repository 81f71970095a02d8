"""Finer codes and scales after a rounding: one coordinate at a time, then the scales at once."""

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight
from mindpress.lite.factor import Hessian
from mindpress.lite.rounding import SMALLEST_SCALE, PerGroup, Weight

WIDTH = 64
ROWS_AT_ONCE = 1024
# A refitted scale may not leave this multiple of the old one: codes were chosen for that.
MOST_CHANGE = 2.0
RIDGE = 1e-4

Columns = Float32[Tensor, "inputs outputs"]


@torch.no_grad()
def refine(
    weight: Weight, start: QuantizedWeight, hessian: Hessian, sweeps: int
) -> QuantizedWeight:
    """`sweeps` times: every code to its best value given all others, then the scales refitted.

    The error tr((Q - W) hessian (Q - W)^T) of no row grows. Peak memory: the weight in float32
    five times.
    """
    found = start
    for _ in range(sweeps):
        found = refit_scales(weight, descend(weight, found, hessian), hessian)
    return found


@torch.no_grad()
def descend(weight: Weight, start: QuantizedWeight, hessian: Hessian) -> QuantizedWeight:
    """One sweep of coordinate descent over the codes, all rows at once, grids as they are.

    The best value of column j given the others is q_j - (D hessian)_j / hessian_jj with
    D = Q - W, rounded to the grid. Changes in a block of columns reach the rest in one product.
    """
    size = start.group_size
    scales = start.scales.float().t().contiguous()
    codes: Columns = start.codes.t().float().contiguous()
    change = (start.dequantize(torch.float32) - weight).t()
    slope: Columns = hessian @ change
    steep = hessian.diagonal().clamp(min=torch.finfo(torch.float32).tiny).tolist()
    for first in range(0, len(codes), WIDTH):
        last = min(first + WIDTH, len(codes))
        near = slope[first:last].clone()
        moved = torch.zeros_like(near)
        for index in range(first, last):
            scale = scales[index // size]
            wanted = near[index - first].div(scale * -steep[index]).add_(codes[index])
            wanted = wanted.round_().clamp_(0, start.spec.max_code)
            moved[index - first] = (wanted - codes[index]).mul_(scale)
            codes[index] = wanted
            near.addr_(hessian[first:last, index], moved[index - first])
        slope.addmm_(hessian[:, first:last], moved)
    return QuantizedWeight(
        codes.t().to(torch.uint8).contiguous(), start.scales, start.zeros, start.spec
    )


@torch.no_grad()
def refit_scales(weight: Weight, start: QuantizedWeight, hessian: Hessian) -> QuantizedWeight:
    """The scales with the least output error for the codes as they are, rounded to float16.

    Least squares for each row: with B_g = the group's codes minus its zero, the scales s solve
    (B_g H_gh B_h^T) s = B_g H w. A row whose error would grow keeps its scales.
    """
    scales = start.scales.clone()
    for first in range(0, len(scales), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        scales[rows] = _refit_rows(weight[rows].float(), start.rows(rows), hessian)
    return QuantizedWeight(start.codes, scales, start.zeros, start.spec)


def _refit_rows(weight: Weight, start: QuantizedWeight, hessian: Hessian) -> Tensor:
    size, count = start.group_size, start.scales.shape[1]
    steps = start.codes.unflatten(-1, (-1, size)).float() - start.zeros.float().unsqueeze(-1)
    wanted = (steps * (weight @ hessian).unflatten(-1, (-1, size))).sum(-1)
    gram = torch.empty(len(weight), count, count, device=weight.device)
    for group in range(count):
        spread = steps[:, group] @ hessian[group * size : (group + 1) * size]
        gram[:, group] = (spread.unflatten(-1, (-1, size)) * steps).sum(-1)
    old = start.scales.float()
    new = _solve(gram, wanted, old).clamp(min=SMALLEST_SCALE).to(torch.float16)

    def errors(scales: PerGroup) -> Float32[Tensor, " rows"]:
        change = (steps * scales.unsqueeze(-1)).flatten(-2) - weight
        return (change @ hessian).mul_(change).sum(-1)

    better = errors(new.float()) < errors(old)
    return torch.where(better.unsqueeze(1), new, start.scales.to(torch.float16))


def _solve(
    gram: Float32[Tensor, "rows groups groups"], wanted: PerGroup, old: PerGroup
) -> PerGroup:
    """The refitted scales, drawn a little to the old ones where codes say nothing about them."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(-1)
    ridge = (RIDGE * mean).clamp(min=torch.finfo(torch.float32).tiny).view(-1, 1)
    damped = gram + torch.diag_embed(ridge.expand_as(old))
    rest = wanted - (gram @ old.unsqueeze(-1)).squeeze(-1)
    moved, _ = torch.linalg.solve_ex(damped.double(), rest.double())
    new = (old + moved.float()).nan_to_num_(nan=0.0)
    return torch.where((new > old / MOST_CHANGE) & (new < old * MOST_CHANGE), new, old)
