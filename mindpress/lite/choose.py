"""Which way of quantizing a block is kept: the one that disturbs its output least.

Every candidate, plain rounding among them, is run on calibration tokens that were held out of
its statistics; so a scale or a clip that makes a block worse than plain rounding is never used.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mindpress.calib.stream import LiveBlock
from mindpress.lite.block import (
    BlockCodes,
    BlockTask,
    SiteScales,
    Statistics,
    quantize_block,
    site_errors,
    smoothing_of,
)

PLAIN = "plain rounding"

Hidden = Float[Tensor, "samples tokens hidden"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Inputs of a block that its statistics have not seen, and what the original makes of them."""

    inputs: Hidden
    outputs: Hidden


@dataclass(frozen=True, slots=True)
class Choice:
    """The block that was kept; errors are relative: |difference|^2 / |what the block adds|^2."""

    result: BlockCodes
    error: float
    plain_error: float
    candidates: Mapping[str, float]
    sites: Mapping[str, float]


@torch.no_grad()
def choose(
    block: LiveBlock, task: BlockTask, seen: Statistics, held: HeldOut, *, search: bool
) -> Choice:
    """Quantize `block` in every way of the recipe and keep the best.

    The live module's weights are replaced. Peak memory: two candidates' codes.
    """
    weights = block.stream.weights(block.index)
    scales = smoothing_of(weights, seen, task, search=search)
    tried: dict[str, float] = {}
    best: BlockCodes | None = None
    best_scales: SiteScales = {}
    for result, used in _candidates(weights, task, scales, seen, search=search):
        tried[result.method] = _error(block, result, held)
        if best is None or tried[result.method] < tried[best.method]:
            best, best_scales = result, used
    if best is None:
        raise ValueError("no candidate was tried")
    sites = site_errors(weights, best, task, best_scales, seen)
    return Choice(best, tried[best.method], tried[PLAIN], tried, sites)


def _candidates(
    weights: Mapping[str, Tensor], task: BlockTask, scales: SiteScales, seen: Statistics,
    *, search: bool,
) -> Iterator[tuple[BlockCodes, SiteScales]]:  # fmt: skip
    yield quantize_block(weights, task, {}, None, PLAIN), {}
    yield quantize_block(weights, task, scales, None, "scaled" if search else "smoothed"), scales
    if search:
        yield quantize_block(weights, task, {}, seen, "clipped"), {}
        yield quantize_block(weights, task, scales, seen, "scaled and clipped"), scales


def _error(block: LiveBlock, result: BlockCodes, held: HeldOut) -> float:
    load_result(block.module, result)
    off, added = 0.0, 0.0
    for inputs, outputs in zip(held.inputs.split(1), held.outputs.split(1), strict=True):
        target = outputs.to(block.stream.device)
        off += float((block.run(inputs).float() - target).square().sum())
        added += float((target - inputs.to(block.stream.device).float()).square().sum())
    return off / added if added else off


def load_result(block: nn.Module, result: BlockCodes) -> None:
    """Put what the codes stand for, and the smoothed floats, into the live module."""
    for name, codes in result.codes.items():
        weight = block.get_submodule(name).get_parameter("weight")
        weight.data.copy_(codes.dequantize(torch.float32))
    for name, tensor in result.floats.items():
        block.get_parameter(name).data.copy_(tensor)
