"""Which way of quantizing a block is kept: the one that disturbs its output least.

Every candidate, plain rounding among them, is run on calibration tokens that were held out of
its statistics; so a scale or a clip that makes a block worse than plain rounding is never used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mindpress.calib.lent import empty_weights
from mindpress.calib.stream import LiveBlock
from mindpress.errors import NumericError
from mindpress.lite.block import quantize_block, smoothing_of
from mindpress.lite.compensated_block import compensate_block
from mindpress.lite.follow import SiteInputs
from mindpress.lite.site_errors import site_errors
from mindpress.lite.task import BlockCodes, BlockTask, SiteScales, Statistics, Weights

PLAIN = "plain rounding"
FLOATS = "16 bits"
# A block is left in floats when its output would be further off than without it, and floats are
# not: layers before it may have left them as far off.
LOST = 1.0
FLOATS_GAIN = 0.5
# Stands for an error that is NaN or infinite, which could neither be compared nor written as JSON.
ENDLESS = 1e9

Hidden = Float[Tensor, "samples tokens hidden"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Inputs of a block that its statistics have not seen, and what the original makes of them."""

    inputs: Hidden
    outputs: Hidden


@dataclass(frozen=True, slots=True)
class Choice:
    """The block that was kept; errors are relative: |difference|^2 / |what the block adds|^2.

    `sites` are of its linears; none where compensation was tried in vain, for what they are
    measured with is used up.
    """

    result: BlockCodes
    error: float
    plain_error: float
    candidates: Mapping[str, float]
    sites: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A candidate: how it was made, its error, and its codes unless they were let go."""

    method: str
    scales: SiteScales
    error: float
    result: BlockCodes | None


@torch.no_grad()
def choose(
    block: LiveBlock,
    task: BlockTask,
    seen: Statistics,
    held: HeldOut,
    *,
    search: bool,
    inputs: SiteInputs | None,
) -> Choice:
    """Quantize `block` in every way of the recipe and keep the best.

    The better of plain and scaled is then compensated, on `inputs`; without these, and with
    `search`, it is clipped. The live module's weights are replaced. Peak memory: two candidates'
    codes; with `inputs` one's and what `compensate_block` takes. Statistics may lack second
    moments that neither `search` nor clipping needs; compensation uses up those there are.
    """
    weights = block.stream.weights(block.index)
    tried: dict[str, float] = {}
    sites: dict[str, float] | None = None

    def measured(result: BlockCodes, scales: SiteScales) -> _Attempt:
        tried[result.method] = error = _error(block, result, held)
        return _Attempt(result.method, scales, error, result)

    def attempt(method: str, scales: SiteScales, clip: Statistics | None = None) -> _Attempt:
        release(block, task)
        return measured(quantize_block(weights, task, scales, clip, method), scales)

    best = attempt(PLAIN, {})
    smoothed = "scaled" if search else "smoothed"
    scales = smoothing_of(weights, seen, task, search=search)
    if scales:
        best = min(best, attempt(smoothed, scales), key=_error_of)
    if inputs:
        release(block, task)
        best = replace(best, result=None)  # while memory is needed most
        method = f"{smoothed}, compensated" if best.scales else "compensated"
        found = compensate_block(weights, task, best.scales, inputs, method)
        best = min(best, measured(found.codes, best.scales), key=_error_of)
        sites = found.sites if best.result else {}
    elif search:
        clipped = "scaled and clipped" if best.scales else "clipped"
        best = min(best, attempt(clipped, best.scales, seen), key=_error_of)
    if best.error >= LOST:
        floats = measured(_in_floats(weights, task, best.error), {})
        best, sites = _unless_saved(best, sites, floats)
    check_error(block, best.error)
    result = best.result or quantize_block(weights, task, best.scales, None, best.method)
    if sites is None:
        sites = site_errors(weights, result, task, best.scales, seen)
    return Choice(result, best.error, tried[PLAIN], tried, sites)


def check_error(block: LiveBlock, error: float) -> None:
    """NumericError when the best there is makes a block NaN or infinite."""
    if error >= ENDLESS:
        raise NumericError(
            f"layer {block.index}: its output is NaN or infinite once it is quantized",
            hint="try --dtype bfloat16, or more bits",
        )


def _unless_saved(
    best: _Attempt, sites: dict[str, float] | None, floats: _Attempt
) -> tuple[_Attempt, dict[str, float] | None]:
    """`best` and its sites, unless floats are far better."""
    return (floats, {}) if floats.error < FLOATS_GAIN * best.error else (best, sites)


def _in_floats(weights: Weights, task: BlockTask, error: float) -> BlockCodes:
    off = f"off by {error:.0%} of what the layer adds" if error < ENDLESS else "NaN or infinite"
    note = f"left in 16 bits: quantized, its output is {off}"
    floats = {name: weights[name].to(task.stored).cpu() for name in weights}
    return BlockCodes(FLOATS, {}, floats, (note,))


def _error_of(attempt: _Attempt) -> float:
    return attempt.error


def _error(block: LiveBlock, result: BlockCodes, held: HeldOut) -> float:
    load_result(block.module, result)
    return disturbance(block, held)


def disturbance(block: LiveBlock, held: HeldOut) -> float:
    """|difference|^2 / |what the block adds|^2 as the live module is now; ENDLESS at most."""
    off, added = 0.0, 0.0
    for inputs, outputs in zip(held.inputs.split(1), held.outputs.split(1), strict=True):
        target = outputs.to(block.stream.device)
        # Codes that overflow where the original does not are no codes for float16.
        found = block.run(inputs, widens=block.stream.overflowed)
        off += float((found.float() - target).square().sum())
        added += float((target - inputs.to(block.stream.device).float()).square().sum())
    error = off / added if added else off
    return error if error < ENDLESS else ENDLESS


def release(block: LiveBlock, task: BlockTask) -> None:
    """Forget the weights that `load_result` will put in: they are read again from the checkpoint,
    and while they are quantized their memory serves that."""
    empty_weights(block, task.quantized)


def load_result(block: nn.Module, result: BlockCodes) -> None:
    """Put what the codes stand for, and the smoothed floats, into the live module."""
    for name, codes in result.codes.items():
        weight = block.get_submodule(name).get_parameter("weight")
        weight.data = codes.dequantize(torch.float32).to(weight.dtype)
    for name, tensor in result.floats.items():
        parameter = block.get_parameter(name)
        parameter.data = tensor.to(parameter.device, parameter.dtype, copy=True)
