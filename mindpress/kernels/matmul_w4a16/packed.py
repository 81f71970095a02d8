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
LARGEST_CODE = 15
SLICE = 2**20  # codes that are packed at a time


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
    """`weight` for `matmul`. Peak memory beside the result: about 4 MiB.

    Groups of other sizes, up to whole rows, become several of 128, 64 or 32 that share scale and
    zero. Raises ConfigError for other bits, a group no multiple of 32, outputs no multiple of 8.
    """
    _check(weight)
    outputs, inputs = weight.codes.shape
    size = next(size for size in GROUPS if weight.group_size % size == 0)
    blocks, groups = -(-outputs // BLOCK), inputs // size
    packed = PackedWeight(
        codes=weight.codes.new_empty(blocks, groups, size // 8, 4 * BLOCK),
        scales=torch.empty(blocks, groups, BLOCK),
        zeros=weight.zeros.new_empty(blocks, groups, BLOCK),
        outputs=outputs,
    )
    at_once = max(1, SLICE // (BLOCK * inputs))
    for first in range(0, blocks, at_once):
        _pack_slice(weight, packed, slice(first, first + at_once))
    return packed


def _pack_slice(weight: QuantizedWeight, into: PackedWeight, blocks: slice) -> None:
    rows, size = slice(blocks.start * BLOCK, blocks.stop * BLOCK), into.group_size
    halves = _blocks(weight.codes[rows]).unflatten(2, (-1, 2, size // 8, 4)).unbind(3)
    codes = halves[0] | halves[1] << 4  # [blocks, 16, groups, steps, 4]
    into.codes[blocks] = codes.permute(0, 2, 3, 1, 4).flatten(3)
    repeats = weight.group_size // size
    for numbers, place in ((weight.scales, into.scales), (weight.zeros, into.zeros)):
        repeated = _blocks(numbers[rows]).repeat_interleave(repeats, dim=2)
        place[blocks] = repeated.transpose(1, 2)


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
    if outputs % 8 != 0 or outputs == 0:
        raise ConfigError(
            f"the CPU kernel needs a multiple of 8 outputs, at least 8, not {outputs}",
            hint="dequantize the weight instead",
        )
    if weight.codes.device.type != "cpu" or weight.codes.amax() > LARGEST_CODE:
        raise ConfigError("the CPU kernel needs codes from 0 to 15 in the memory of the CPU")
