"""Launches the kernels of `kernel.py`.

Bytes moved per call: inputs * outputs / 2 of codes, 4 per output and group of scales, x and y once
(x again for every tile of outputs, from the second-level cache), and where inputs are split
2 * 4 * split * rows * outputs of partial sums, which stay in that cache. With up to 16 rows it aims
at the bandwidth of memory, with hundreds at torch's product of 16-bit matrices.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from mindpress.errors import InputError, ResourceError
from mindpress.kernels.interpreted import interpreted
from mindpress.kernels.matmul_w4a16.dequantize.kernel import dequantize
from mindpress.kernels.matmul_w4a16.kernel import matmul_codes, matmul_weights
from mindpress.kernels.matmul_w4a16.regimes import (
    DEQUANTIZE_ROWS,
    PROCESSORS,
    TileConfig,
    default_config,
)
from mindpress.kernels.matmul_w4a16.tiles import BLOCK_INPUTS, TiledWeight

DEQUANTIZE_OUTPUTS = 32
# Of a weight that is dequantized for torch's product, as many at once as 128 MiB hold.
SLICE_WEIGHTS = 2**26


@dataclass(frozen=True, slots=True)
class Workspace:
    """Partial sums of products whose inputs are split, and how many programs handed theirs in.

    `arrived` is zero between calls: kernels leave it so, also when a graph replays them. One
    workspace serves any number of weights, but calls on one stream only.
    """

    partials: Float32[Tensor, " numbers"]
    arrived: Int32[Tensor, " tiles"]


def new_workspace(numbers: int, tiles: int, device: torch.device) -> Workspace:
    """Room for `numbers` partial sums and `tiles` counters."""
    return Workspace(
        partials=torch.empty(numbers, dtype=torch.float32, device=device),
        arrived=torch.zeros(tiles, dtype=torch.int32, device=device),
    )


def workspace_for(weights: Iterable[TiledWeight], most_rows: int) -> Workspace:
    """Room for every product of up to `most_rows` rows with any of `weights` by default tiles.

    `weights`, at least one, share a device.
    """
    every = list(weights)
    device = every[0].words.device
    numbers, tiles = 1, 1
    for outputs, inputs, group in {(one.outputs, one.inputs, one.group_size) for one in every}:
        for rows in range(1, min(most_rows, DEQUANTIZE_ROWS - 1) + 1):
            config = default_config(_capability(device), rows, outputs, inputs, group)
            numbers = max(numbers, config.partial_sums(rows, outputs))
            tiles = max(tiles, config.tiles(rows, outputs))
    return new_workspace(numbers, tiles, device)


@torch.no_grad()
def matmul_triton(
    x: Float[Tensor, "*rows inputs"],
    weight: TiledWeight,
    config: TileConfig | None = None,
    workspace: Workspace | None = None,
) -> Float[Tensor, "*rows outputs"]:
    """x W^T in the type of x, summed in float32; every call gives the same bits.

    `config` None: tiles by the number of rows. Without `workspace`, products whose inputs are split
    make one, which costs a launch. Peak memory beside y: that, or 128 MiB of dequantized weights.
    Raises InputError for x of another size, type or device; ResourceError for a workspace that is
    too small.
    """
    _check(x, weight)
    flat = x.reshape(-1, weight.inputs).contiguous()
    y = flat.new_empty(len(flat), weight.outputs)
    if len(flat) == 0:
        return y.view(*x.shape[:-1], weight.outputs)
    if config is None:
        shape = len(flat), weight.outputs, weight.inputs, weight.group_size
        config = default_config(_capability(x.device), *shape)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        if config.method == "dequantize":
            _by_slices(flat, weight, y)
        else:
            _multiply(flat, weight, y, config, workspace)
    return y.view(*x.shape[:-1], weight.outputs)


@torch.no_grad()
def dequantize_triton(weight: TiledWeight) -> Float[Tensor, "outputs inputs"]:
    """The weight the codes stand for, computed in float32, in `weight.dtype`.

    Bytes moved: two and a half per weight, at the bandwidth of memory.
    """
    full = weight.words.new_empty((weight.outputs, weight.inputs), dtype=weight.dtype)
    with torch.cuda.device(full.device) if full.is_cuda else nullcontext():
        _dequantize(weight, 0, full)
    return full


def _multiply(
    x: Tensor, weight: TiledWeight, y: Tensor, config: TileConfig, workspace: Workspace | None
) -> None:
    rows, (blocks, padded, _) = len(x), weight.words.shape
    room = _room(config, rows, weight, workspace)
    kernel: Any = matmul_codes if config.method == "codes" else matmul_weights
    options = {
        "GROUP": weight.group_size,
        "WHOLE": weight.inputs % BLOCK_INPUTS == 0,
        "SPLIT": config.split > 1,
        "BLOCK_ROWS": config.block_rows,
        "BLOCK_OUTPUTS": config.block_outputs,
        "num_warps": config.warps,
        "num_stages": config.stages,
        "INTERPRETED": interpreted(kernel),
    }
    if config.method != "codes":
        options["ROUNDED"] = config.method == "rounded"
    elif rows > config.block_rows:
        raise InputError(f"tiles of {config.block_rows} rows cannot take {rows}")
    kernel[(config.tiles(rows, weight.outputs), config.split)](
        x,
        weight.words,
        weight.scales,
        y,
        room.partials,
        room.arrived,
        rows,
        weight.outputs,
        weight.inputs,
        padded,
        blocks,
        **options,
    )


def _room(
    config: TileConfig, rows: int, weight: TiledWeight, workspace: Workspace | None
) -> Workspace:
    numbers = config.partial_sums(rows, weight.outputs)
    tiles = config.tiles(rows, weight.outputs) if numbers else 0
    if workspace is None:
        return new_workspace(numbers, tiles, weight.words.device)
    if workspace.partials.numel() < numbers or workspace.arrived.numel() < tiles:
        raise ResourceError(
            f"the workspace has room for {workspace.partials.numel()} sums of"
            f" {workspace.arrived.numel()} tiles, the product makes {numbers} of {tiles}",
            hint="make it for as many rows as are multiplied",
        )
    return workspace


def _by_slices(x: Tensor, weight: TiledWeight, y: Tensor) -> None:
    step = min(weight.outputs, max(1, SLICE_WEIGHTS // weight.inputs))
    room = x.new_empty(step, weight.inputs)
    for first in range(0, weight.outputs, step):
        part = room[: min(step, weight.outputs - first)]
        _dequantize(weight, first, part)
        torch.mm(x, part.T, out=y[:, first : first + len(part)])


def _dequantize(weight: TiledWeight, first: int, full: Tensor) -> None:
    """Writes outputs `first` and following to the rows of `full`."""
    blocks, padded, _ = weight.words.shape
    kernel: Any = dequantize
    kernel[(-(-len(full) // DEQUANTIZE_OUTPUTS), blocks)](
        weight.words,
        weight.scales,
        full,
        first,
        first + len(full),
        weight.inputs,
        padded,
        GROUP=weight.group_size,
        WHOLE=weight.inputs % BLOCK_INPUTS == 0,
        BLOCK_OUTPUTS=DEQUANTIZE_OUTPUTS,
    )


def _capability(device: torch.device) -> int:
    """As 90 for 9.0; in the interpreter the oldest, whose tiles run everywhere."""
    if device.type != "cuda":
        return min(PROCESSORS)
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _check(x: Tensor, weight: TiledWeight) -> None:
    if x.shape[-1] != weight.inputs:
        raise InputError(f"the weight has {weight.inputs} inputs, x has {x.shape[-1]}")
    if x.dtype != weight.dtype:
        raise InputError(f"the weight was tiled for {weight.dtype}, x has {x.dtype}")
    if x.device != weight.words.device:
        raise InputError(f"the weight is on {weight.words.device}, x on {x.device}")
    if not x.is_cuda and not interpreted(matmul_codes):
        raise InputError(f"the GPU kernel multiplies what is in a GPU's memory, not {x.device}")
