"""Which int8 form of a block is kept: the one that disturbs its output least.

As in `choose`, candidates run on tokens that were held out of the statistics, here with rounded
activations; so smoothing that makes a block worse than plain rounding is never used.
"""

import torch

from mindpress.calib.stream import LiveBlock
from mindpress.lite.choose import (
    PLAIN,
    Choice,
    HeldOut,
    check_error,
    disturbance,
    load_result,
    release,
)
from mindpress.lite.rounded_inputs import rounded_inputs
from mindpress.lite.smooth_quant import Rows, int8_block, search_block
from mindpress.lite.task import BlockCodes, BlockTask

SMOOTHED = "smoothed"


@torch.no_grad()
def choose_int8(block: LiveBlock, task: BlockTask, seen: Rows, held: HeldOut) -> Choice:
    """Quantize `block` plainly and smoothed and keep the better one; NumericError where it becomes
    NaN or infinite.

    The live module's weights are replaced. `sites` of the choice are relative errors of the
    linears on the rows of `seen`. Peak memory: two candidates' codes.
    """
    weights = block.stream.weights(block.index)
    release(block, task)
    found = search_block(weights, seen, task)
    best = int8_block(weights, task, {}, PLAIN)
    tried = {PLAIN: int8_disturbance(block, best, held)}
    scales = {name: one.scales for name, one in found.items() if one.alpha is not None}
    if scales:
        release(block, task)
        smoothed = int8_block(weights, task, scales, SMOOTHED)
        tried[SMOOTHED] = int8_disturbance(block, smoothed, held)
        if tried[SMOOTHED] < tried[PLAIN]:
            best = smoothed
    check_error(block, tried[best.method])
    sites = {
        name: one.plain_error if best.method == PLAIN else one.error for name, one in found.items()
    }
    return Choice(best, tried[best.method], tried[PLAIN], tried, sites)


@torch.no_grad()
def int8_disturbance(block: LiveBlock, result: BlockCodes, held: HeldOut) -> float:
    """|difference|^2 / |what the block adds|^2 with `result` in it and activations rounded.

    The live module's weights are replaced.
    """
    load_result(block.module, result)
    with rounded_inputs(block.module, result.codes):
        return disturbance(block, held)
