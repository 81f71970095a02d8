"""Root mean square norms on a GPU.

Bytes moved: x, the residual and their sum once each, the result once (a byte for each code), the
weight from L2. The limit aimed at is the bandwidth of memory.
"""

from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from mindpress.errors import InputError
from mindpress.kernels.quantize_rows.gpu import warps_for
from mindpress.kernels.quantize_rows.rows import Int8Rows
from mindpress.kernels.rms_norm.kernel import rms_norm_kernel

MOST_CHANNELS = 16384  # of a row in registers: more of them spill

Rows = Float[Tensor, "rows channels"]
Weight = Float[Tensor, " channels"]


def rms_norm(x: Rows, weight: Weight, eps: float) -> Rows:
    """`rms_norm_reference` up to rounding. InputError for more than `MOST_CHANNELS` channels."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _launch((x, None, weight), (y, None, None), eps)
    return y


def add_rms_norm(x: Rows, residual: Rows, weight: Weight, eps: float) -> tuple[Rows, Rows]:
    """`add_rms_norm_reference`; the sum is the same bits."""
    x = x.contiguous()
    y, total = torch.empty_like(x), torch.empty_like(x)
    _launch((x, residual, weight), (y, total, None), eps)
    return y, total


def rms_norm_int8(x: Rows, weight: Weight, eps: float) -> Int8Rows:
    """`rms_norm_int8_reference`; a code at the edge between two may be the other one."""
    x = x.contiguous()
    rows = _empty_codes(x)
    _launch((x, None, weight), (rows.codes, None, rows.scales), eps)
    return rows


def add_rms_norm_int8(x: Rows, residual: Rows, weight: Weight, eps: float) -> tuple[Int8Rows, Rows]:
    """`add_rms_norm_int8_reference`; codes as those of `rms_norm_int8`, the sum the same bits."""
    x = x.contiguous()
    rows, total = _empty_codes(x), torch.empty_like(x)
    _launch((x, residual, weight), (rows.codes, total, rows.scales), eps)
    return rows, total


def _empty_codes(x: Rows) -> Int8Rows:
    codes = torch.empty_like(x, dtype=torch.int8)
    return Int8Rows(codes, torch.empty(len(x), dtype=torch.float32, device=x.device))


def _launch(
    inputs: tuple[Rows, Rows | None, Weight],
    outputs: tuple[Tensor, Rows | None, Tensor | None],
    eps: float,
) -> None:
    """x, residual and weight; y, total and scales. The kernel never uses what is None."""
    x, residual, weight = inputs
    _check(x, residual, weight)
    rows, channels = x.shape
    if rows == 0:
        return
    block = triton.next_power_of_2(channels)
    residual = None if residual is None else residual.contiguous()
    tensors = (x, residual, weight.contiguous(), *outputs)
    launch: Any = rms_norm_kernel  # Triton adds arguments of its own
    launch[(rows,)](
        *(x if tensor is None else tensor for tensor in tensors),
        channels,
        eps,
        BLOCK=block,
        ADD=residual is not None,
        INT8=outputs[2] is not None,
        num_warps=warps_for(block),
        enable_fp_fusion=outputs[2] is None,
    )


def _check(x: Tensor, residual: Tensor | None, weight: Tensor) -> None:
    channels = x.shape[1]
    if channels > MOST_CHANNELS:
        raise InputError(f"the norm of {channels} channels; the GPU kernel takes {MOST_CHANNELS}")
    if weight.shape != (channels,):
        raise InputError(f"x has {channels} channels, the weight {tuple(weight.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise InputError(f"x is {tuple(x.shape)}, the residual {tuple(residual.shape)}")
