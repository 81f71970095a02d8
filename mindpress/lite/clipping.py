"""The range each group's grid covers: clipping a few large weights can serve the rest better.

AWQ (Lin et al. 2023, section 3.2; AutoAWQ 0.2.9, `_search_best_clip`) shrinks |w| of a group to
the value that least disturbs its output. Here both ends move on their own, and the error of a
group is exact over all calibration tokens: d H_g d^T with its block H_g of X^T X, or, where later
columns make up for errors, sum of d^2 * cost with a cost for each input.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.formats.quantized import QuantSpec
from mindpress.lite.rounding import Extent, PerGroup, decode, encode, full_extent, grid, grouped

STEPS = 20
SMALLEST_SHARE = 0.5
ROWS_AT_ONCE = 256
COSTS_AXES = 2

Blocks = Float32[Tensor, "groups size size"]
Costs = Float32[Tensor, "groups size"]


@torch.no_grad()
def search_extent(
    weight: Float[Tensor, "outputs inputs"], blocks: Blocks | Costs, spec: QuantSpec
) -> Extent:
    """The extent of every group of `weight` with the least output error of that group.

    Both ends shrink together to 1, 0.95 ... 0.55 of their value, then each end on its own.
    `blocks` are the `diagonal_blocks` of X^T X for the inputs of this weight, or costs.
    """
    parts = [_search_rows(rows, blocks, spec) for rows in weight.split(ROWS_AT_ONCE)]
    return Extent(torch.cat([part.low for part in parts]), torch.cat([part.high for part in parts]))


def diagonal_blocks(hessian: Float32[Tensor, "inputs inputs"], size: int) -> Blocks:
    """The blocks of `size` along the diagonal."""
    groups = hessian.shape[0] // size
    every = hessian.view(groups, size, groups, size)
    return torch.stack([every[index, :, index] for index in range(groups)])


def _search_rows(
    weight: Float[Tensor, "rows inputs"], blocks: Blocks | Costs, spec: QuantSpec
) -> Extent:
    groups = grouped(weight, spec)
    full = full_extent(groups)
    share_low = torch.ones_like(full.low)
    share_high = torch.ones_like(full.high)
    best = _group_error(groups, full, blocks, spec)
    for move_low, move_high in ((True, True), (True, False), (False, True)):
        start_low, start_high = share_low, share_high
        for share in _shares():
            low = torch.full_like(share_low, share) if move_low else start_low
            high = torch.full_like(share_high, share) if move_high else start_high
            error = _group_error(groups, Extent(full.low * low, full.high * high), blocks, spec)
            better = error < best
            best = torch.where(better, error, best)
            share_low = torch.where(better, low, share_low)
            share_high = torch.where(better, high, share_high)
    return Extent(full.low * share_low, full.high * share_high)


def _shares() -> Iterator[float]:
    step = 1
    while (share := 1 - step / STEPS) > SMALLEST_SHARE:
        yield share
        step += 1


def _group_error(
    groups: Float32[Tensor, "rows groups size"],
    extent: Extent,
    blocks: Blocks | Costs,
    spec: QuantSpec,
) -> PerGroup:
    """d H_g d^T for the change d of each group, or the cost of d^2."""
    scales, zeros = grid(extent, spec)
    change = decode(encode(groups, scales, zeros, spec), scales, zeros).sub_(groups)
    if blocks.ndim == COSTS_AXES:
        return change.square_().mul_(blocks).sum(-1)
    turned = change.transpose(0, 1)
    return (torch.bmm(turned, blocks).mul_(turned)).sum(-1).t()
