"""`gated` on a GPU.

Bytes moved: gate and up once, the result once. The limit aimed at is the bandwidth of memory.
"""

from typing import Any, get_args

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from mindpress.errors import ConfigError, InputError
from mindpress.kernels.gated.kernel import gated_kernel
from mindpress.kernels.gated.reference import Activation

BLOCK = 1024  # with 4 warps: 8 channels for each thread, a load of 16 bytes of float16


def gated(
    gate_up: Float[Tensor, "rows twice"], activation: Activation
) -> Float[Tensor, "rows channels"]:
    """`gated_reference` up to rounding.

    InputError for an odd number of columns, ConfigError for an activation that is not known.
    """
    rows, columns = gate_up.shape
    if columns % 2 != 0:
        raise InputError(f"gate and up have {columns} columns together, which is odd")
    if activation not in get_args(Activation):
        raise ConfigError(f"no activation {activation!r}", hint=", ".join(get_args(Activation)))
    channels = columns // 2
    y = torch.empty(rows, channels, dtype=gate_up.dtype, device=gate_up.device)
    if y.numel() > 0:
        launch: Any = gated_kernel  # Triton adds arguments of its own
        launch[(rows, triton.cdiv(channels, BLOCK))](
            gate_up.contiguous(), y, channels, ACTIVATION=activation, BLOCK=BLOCK, num_warps=4
        )
    return y
