"""Which way of quantizing a block is kept: the one that disturbs its output least.

Every candidate, plain rounding among them, is run on calibration tokens that were held out of
its statistics; so a scale or a clip that makes a block worse than plain rounding is never used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mindpress.calib.stream import LiveBlock
from mindpress.errors import NumericError
from mindpress.lite.block import quantize_block, smoothing_of
from mindpress.lite.compensated_block import Compensating, compensate_block, X
from mindpress.lite.follow import SiteInputs
from mindpress.lite.site_errors import site_errors
from mindpress.lite.task import BlockCodes, BlockTask, SiteScales, Statistics

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
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A candidate, the scales it used and its error."""

    result: BlockCodes
    scales: SiteScales
    error: float


@torch.no_grad()
def choose(
    block: LiveBlock,
    task: BlockTask,
    seen: Statistics,
    held: HeldOut,
    *,
    search: bool,
    compensate: tuple[SiteInputs, Compensating] | None = None,
) -> Choice:
    """Quantize `block` in every way of the recipe and keep the best.

    With `search`, clipping is tried on the better of plain and scaled; with `compensate`,
    compensated rounding of plain and of scaled. The live module's weights are replaced: in the
    end they are those of the result. Peak memory: two candidates' codes.
    """
    weights = block.stream.weights(block.index)
    tried: dict[str, float] = {}
    notes: list[str] = []

    def measured(method: str, scales: SiteScales, result: BlockCodes) -> _Attempt:
        tried[method] = _error(block, result, held)
        return _Attempt(replace(result, method=method), scales, tried[method])

    def rounded(method: str, scales: SiteScales, clip: Statistics | None = None) -> _Attempt:
        _release(block.module, task)
        return measured(method, scales, quantize_block(weights, task, scales, clip, method))

    def compensated(method: str, scales: SiteScales) -> _Attempt:
        inputs, how = compensate
        result, found = compensate_block(weights, task, scales, inputs, how)
        notes.extend(found)
        return measured(method, scales, result)

    best = rounded(PLAIN, {})
    smoothed = "scaled" if search else "smoothed"
    scales = smoothing_of(weights, seen, task, search=search)
    best = min(best, rounded(smoothed, scales), key=_error_of)
    if compensate:
        first = [scales, {}] if X.get("both") else [best.scales]
        for use in first:
            name = f"{smoothed} and compensated" if use else "compensated"
            best = min(best, compensated(name, use), key=_error_of)
    elif search:
        clipped = "scaled and clipped" if best.scales else "clipped"
        best = min(best, rounded(clipped, best.scales, seen), key=_error_of)
    if not isfinite(best.error):
        raise NumericError(
            f"layer {block.index}: its output is NaN or infinite once it is quantized",
            hint="try --dtype bfloat16, or more bits",
        )
    load_result(block.module, best.result)
    sites = site_errors(weights, best.result, task, best.scales, seen)
    return Choice(best.result, best.error, tried[PLAIN], tried, sites, tuple(notes))


def _error_of(attempt: _Attempt) -> float:
    return attempt.error


def _error(block: LiveBlock, result: BlockCodes, held: HeldOut) -> float:
    load_result(block.module, result)
    off, added = 0.0, 0.0
    for inputs, outputs in zip(held.inputs.split(1), held.outputs.split(1), strict=True):
        target = outputs.to(block.stream.device)
        off += float((block.run(inputs).float() - target).square().sum())
        added += float((target - inputs.to(block.stream.device).float()).square().sum())
    return off / added if added else off


def _release(block: nn.Module, task: BlockTask) -> None:
    """Forget the weights that `load_result` will put in: they are read again from the checkpoint,
    and while they are quantized their memory serves that."""
    for name in task.quantized:
        weight = block.get_submodule(name).get_parameter("weight")
        weight.data = weight.data.new_empty(0)


def load_result(block: nn.Module, result: BlockCodes) -> None:
    """Put what the codes stand for, and the smoothed floats, into the live module."""
    for name, codes in result.codes.items():
        weight = block.get_submodule(name).get_parameter("weight")
        weight.data = codes.dequantize(torch.float32).to(weight.dtype)
    for name, tensor in result.floats.items():
        block.get_parameter(name).data.copy_(tensor)
