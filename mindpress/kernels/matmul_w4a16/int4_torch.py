"""The product on the CPU by torch's own kernel for 4-bit weights, where nothing could be compiled.

It computes in bfloat16 (an error of about 0.25 % on Gaussian data); its float32 path is a plain
loop, ten times slower than a product of floats. Faster than float32 up to about 16 rows on AVX2,
slower from 64 on. Bytes moved: the packed weight once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Float, UInt8
from torch import Tensor

from mindpress.errors import ConfigError, InputError
from mindpress.formats.quantized import QuantizedWeight

GROUPS = (32, 64, 128, 256)
OUTPUTS = 16  # a multiple of them
MIDDLE = 8


@dataclass(frozen=True, slots=True)
class TorchInt4Weight:
    """w = (code - 8) * scale + zero; codes in an order that torch keeps to itself."""

    codes: UInt8[Tensor, "outputs half_inputs"]
    scales_and_zeros: BFloat16[Tensor, "groups outputs 2"]

    @property
    def outputs(self) -> int:
        return self.codes.shape[0]

    @property
    def inputs(self) -> int:
        return 2 * self.codes.shape[1]

    @property
    def group_size(self) -> int:
        return self.inputs // self.scales_and_zeros.shape[0]

    @property
    def nbytes(self) -> int:
        """Half a byte per weight, and four bytes per output and group."""
        return self.codes.nbytes + self.scales_and_zeros.nbytes


def pack_torch_int4(weight: QuantizedWeight) -> TorchInt4Weight:
    """`weight` for `matmul_torch_int4`; scales and zeros are rounded to bfloat16.

    Peak memory: four bytes for each weight. Raises ConfigError for what torch does not multiply.
    """
    outputs, inputs = weight.codes.shape
    size = weight.group_size
    fits = weight.spec.bits == 4 and size in GROUPS and outputs > 0 and outputs % OUTPUTS == 0
    if not fits or weight.codes.device.type != "cpu":
        raise ConfigError(
            f"torch's CPU kernel multiplies 4-bit codes in groups of {GROUPS} and a multiple of "
            f"{OUTPUTS} outputs, not {weight.spec.bits}-bit ones of [{outputs}, {inputs}] in "
            f"groups of {size}",
            hint="dequantize the weight instead",
        )
    codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 2)
    scales = weight.scales.float()
    zeros = (MIDDLE - weight.zeros.float()) * scales
    both = torch.stack((scales, zeros), dim=-1).transpose(0, 1)
    return TorchInt4Weight(codes, both.to(torch.bfloat16).contiguous())


@torch.no_grad()
def matmul_torch_int4(
    x: Float[Tensor, "*rows inputs"], packed: TorchInt4Weight
) -> Float[Tensor, "*rows outputs"]:
    """x W^T, computed in bfloat16 and returned in the type of x.

    Raises InputError for a wrong last dimension.
    """
    if x.shape[-1] != packed.inputs:
        raise InputError(f"the weight has {packed.inputs} inputs, x has {x.shape[-1]}")
    rows = x.reshape(-1, packed.inputs).to(torch.bfloat16).contiguous()
    if len(rows) == 0:
        return x.new_empty(*x.shape[:-1], packed.outputs)
    y = torch.ops.aten._weight_int4pack_mm_for_cpu(
        rows, packed.codes, packed.group_size, packed.scales_and_zeros
    )
    return y.to(x.dtype).view(*x.shape[:-1], packed.outputs)
