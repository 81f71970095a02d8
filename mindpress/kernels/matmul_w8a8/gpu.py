"""The product on a GPU.

Bytes moved: weight and x codes once per tile of rows and outputs that does not find them in L2,
y once, and 8 bytes for each sum of a split tile. With few rows the limit aimed at is the bandwidth
of memory, with many the int8 tensor cores.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.errors import InputError
from mindpress.kernels.matmul_w8a8.kernel import matmul_w8a8_kernel
from mindpress.kernels.matmul_w8a8.tiles import USUAL, TileConfig, default_config
from mindpress.kernels.matmul_w8a8.weight import Int8Weight, check_product
from mindpress.kernels.matmul_w8a8.workspace import Workspace, new_workspace
from mindpress.kernels.quantize_rows.rows import Int8Rows


def matmul_w8a8(
    x: Int8Rows,
    weight: Int8Weight,
    dtype: torch.dtype = torch.float32,
    *,
    config: TileConfig | None = None,
    workspace: Workspace | None = None,
) -> Float[Tensor, "rows outputs"]:
    """`matmul_w8a8_reference`, bit for bit. One launch; it can be captured in a CUDA graph.

    `config` is for a tuner (default: `default_config`). Without a `workspace` a split product makes
    one, which is a second launch. Raises InputError for outputs that are no multiple of 8 or
    inputs no multiple of 32, ResourceError for a workspace that is too small.
    """
    check_product(x, weight)
    _check(x, weight)
    rows, outputs, inputs = len(x.scales), weight.outputs, weight.inputs
    device = x.codes.device
    y = torch.empty(rows, outputs, dtype=dtype, device=device)
    if y.numel() == 0:
        return y
    config = config or default_config(_capability(device), rows, outputs, inputs)
    workspace = workspace or new_workspace(config, rows, outputs, device)
    workspace.check(config, rows, outputs)
    launch: Any = matmul_w8a8_kernel  # Triton adds arguments of its own
    launch[(config.tiles(rows, outputs), config.split)](
        *(x.codes.contiguous(), x.scales.contiguous(), weight.codes, weight.scales, y),
        *(workspace.partials, workspace.counters, rows, outputs, inputs),
        BLOCK_ROWS=config.block_rows,
        BLOCK_OUTPUTS=config.block_outputs,
        BLOCK_INPUTS=config.block_inputs,
        SPLIT=config.split,
        GROUP=config.group,
        WHOLE_BLOCKS=inputs % config.block_inputs == 0,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return y


def fits(outputs: int, inputs: int) -> bool:
    """Whether the kernel multiplies weights of this size."""
    return outputs % 8 == 0 and inputs % 32 == 0 and inputs > 0


def _check(x: Int8Rows, weight: Int8Weight) -> None:
    if not fits(weight.outputs, weight.inputs):
        raise InputError(
            "the GPU kernel needs outputs that are a multiple of 8 and inputs a multiple of 32, "
            f"not {weight.outputs} and {weight.inputs}"
        )
    if not (weight.codes.is_contiguous() and weight.scales.is_contiguous()):
        raise InputError("the codes of the weight are not in one piece of memory")
    if x.codes.device != weight.codes.device:
        raise InputError(f"x is on {x.codes.device}, the weight on {weight.codes.device}")


def _capability(device: torch.device) -> int:
    """Of the GPU; of a usual one where the kernel is interpreted."""
    if device.type != "cuda":
        return USUAL
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
