"""Products of int8 codes on the CPU, by the compiled library.

Bytes moved per call: the packed weight (a byte each) once per block of rows that fits the
second-level cache, x and y once. With one row it aims at the bandwidth of memory, with many at the
products of bytes of the processor (AVX2: pmaddubsw of absolute values; AVX-512: VNNI).
"""

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int8
from torch import Tensor
from torch.nn.functional import pad

from mindpress.errors import ConfigError, InputError
from mindpress.kernels.matmul_w8a8.weight import MOST_INPUTS, Int8Weight
from mindpress.kernels.native.call import check, how, library_for
from mindpress.kernels.native.structures import W8Weight
from mindpress.kernels.quantize_rows.rows import Int8Rows

BLOCK = 16
SLICE = 2**20  # codes that are packed at a time


@dataclass(frozen=True, slots=True)
class PackedInt8Weight:
    """Outputs in blocks of 16; 64 bytes are the next 4 inputs of all of them (w8_weight.hpp)."""

    codes: Int8[Tensor, "blocks steps 64"]
    scales: Float32[Tensor, "blocks 16"]
    outputs: int
    inputs: int

    @property
    def nbytes(self) -> int:
        """A byte per weight, and four per output, both filled up."""
        return self.codes.nbytes + self.scales.nbytes


def pack_int8_weight(weight: Int8Weight) -> PackedInt8Weight:
    """`weight` for `matmul_w8a8_cpu`. Peak memory beside the result: about 3 MiB.

    ConfigError for codes of -128, too many inputs, no outputs or inputs, or another device.
    """
    outputs, inputs = weight.codes.shape
    _check(weight)
    blocks, steps = -(-outputs // BLOCK), -(-inputs // 4)
    codes = weight.codes.new_empty(blocks, steps, 4 * BLOCK)
    at_once = max(1, SLICE // (4 * BLOCK * steps))
    for first in range(0, blocks, at_once):
        rows = weight.codes[first * BLOCK : (first + at_once) * BLOCK]
        filled = pad(rows, (0, 4 * steps - inputs, 0, -len(rows) % BLOCK))
        split = filled.unflatten(0, (-1, BLOCK)).unflatten(2, (steps, 4))
        codes[first : first + at_once].unflatten(2, (BLOCK, 4)).copy_(split.transpose(1, 2))
    scales = pad(weight.scales, (0, -outputs % BLOCK)).view(blocks, BLOCK)
    return PackedInt8Weight(codes, scales, outputs, inputs)


@torch.no_grad()
def matmul_w8a8_cpu(
    x: Int8Rows, packed: PackedInt8Weight, threads: int = 0
) -> Float32[Tensor, "rows outputs"]:
    """`matmul_w8a8_reference` in float32, bit for bit; `threads` 0: as many as torch uses.

    Codes of -128 are not allowed. Raises InputError where x does not fit, ResourceError where
    nothing was compiled. Peak memory beside the result: four bytes for each row.
    """
    library = library_for("products of int8 codes")
    if x.codes.shape[1] != packed.inputs:
        raise InputError(f"the weight has {packed.inputs} inputs, x has {x.codes.shape[1]}")
    codes, scales = x.codes.contiguous(), x.scales.contiguous()
    if packed.inputs % 4 != 0:
        codes = pad(codes, (0, -packed.inputs % 4))
    y = scales.new_empty(len(codes), packed.outputs)
    addresses = packed.codes.data_ptr(), packed.scales.data_ptr()
    weight = W8Weight(*addresses, packed.outputs, codes.shape[1])
    set_number, count = how(threads)
    done = library.w8_matmul(
        ctypes.byref(weight),
        codes.data_ptr(),
        scales.data_ptr(),
        len(codes),
        y.data_ptr(),
        set_number,
        count,
    )
    check(done, "the product of int8 codes", set_number)
    return y


def _check(weight: Int8Weight) -> None:
    outputs, inputs = weight.codes.shape
    if outputs == 0 or not 0 < inputs <= MOST_INPUTS:
        raise ConfigError(
            f"the CPU kernel multiplies 1 to {MOST_INPUTS} inputs and at least one output, not "
            f"{inputs} and {outputs}"
        )
    if weight.codes.device.type != "cpu" or weight.codes.amin() < -127:
        raise ConfigError("the CPU kernel needs codes from -127 to 127 in the memory of the CPU")
