"""A weight of 4-bit codes in the order the CPU reads it.

Outputs lie in blocks of 16. A byte holds two codes of one output that are half a group apart, and
every 64 bytes are the next 4 + 4 inputs of all 16 outputs (`kernels/native/w4_weight.hpp`): one
load, one mask and one shift give two registers of codes that a dot product of bytes can use.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn.functional import pad

from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantizedWeight

BLOCK = 16
GROUPS = (128, 64, 32)


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """Codes, scales and zeros by block and group; the last block may have empty outputs."""

    codes: UInt8[Tensor, "blocks groups steps 64"]
    scales: Float32[Tensor, "blocks groups 16"]
    zeros: UInt8[Tensor, "blocks groups 16"]
    outputs: int

    @property
    def group_size(self) -> int:
        return 8 * self.codes.shape[2]

    @property
    def inputs(self) -> int:
        return self.codes.shape[1] * self.group_size

    @property
    def nbytes(self) -> int:
        """Half a byte per weight, and five bytes per output and group."""
        return sum(part.nbytes for part in (self.codes, self.scales, self.zeros))


def pack_weight(weight: QuantizedWeight) -> PackedWeight:
    """`weight` for `matmul`.

    Groups of other sizes, up to whole rows, become several of 128, 64 or 32 that share scale and
    zero. Raises ConfigError for other bits, a group no multiple of 32, outputs no multiple of 8.
    """
    _check(weight)
    size = next(size for size in GROUPS if weight.group_size % size == 0)
    repeats = weight.group_size // size
    halves = _blocks(weight.codes).unflatten(2, (-1, 2, size // 8, 4)).unbind(3)
    codes = halves[0] | halves[1] << 4  # [blocks, 16, groups, steps, 4]
    scales = weight.scales.float().repeat_interleave(repeats, dim=1)
    zeros = weight.zeros.repeat_interleave(repeats, dim=1)
    return PackedWeight(
        codes=codes.permute(0, 2, 3, 1, 4).flatten(3).contiguous(),
        scales=_blocks(scales).transpose(1, 2).contiguous(),
        zeros=_blocks(zeros).transpose(1, 2).contiguous(),
        outputs=len(weight.codes),
    )


def _blocks(rows: Tensor) -> Tensor:
    """[outputs, columns] as [blocks, 16, columns], filled up with zeros."""
    return pad(rows, (0, 0, 0, -len(rows) % BLOCK)).unflatten(0, (-1, BLOCK))


def _check(weight: QuantizedWeight) -> None:
    outputs, inputs = weight.codes.shape
    if weight.spec.bits != 4:
        raise ConfigError(
            f"the CPU kernel multiplies 4-bit codes, these have {weight.spec.bits}",
            hint="dequantize the weight instead",
        )
    if weight.group_size % GROUPS[-1] != 0 or inputs % weight.group_size != 0:
        raise ConfigError(
            f"the CPU kernel needs groups of a multiple of 32 inputs, not {weight.group_size}",
            hint="quantize with groups of 32, 64 or 128",
        )
    if outputs % 8 != 0:
        raise ConfigError(
            f"the CPU kernel needs a multiple of 8 outputs, not {outputs}",
            hint="dequantize the weight instead",
        )
    if weight.codes.device.type != "cpu" or torch.any(weight.codes > 15):
        raise ConfigError("the CPU kernel needs codes from 0 to 15 in the memory of the CPU")
