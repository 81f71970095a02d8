"""A weight of 4-bit codes in the order tensor cores of a GPU want them.

A word of 32 bits has eight codes of one output. Sixteen words are a block of 128 inputs, and the
blocks of all outputs for the same inputs lie together: a program that multiplies 64 outputs reads
4 KiB in a row, 16 bytes per lane. In word j of a block, quarter t of its inputs (32 of them) has

    code 32 t + 2 j      at bit 4 * PLACES[t]
    code 32 t + 2 j + 1  at bit 4 * PLACES[t] + 16

so that one mask leaves two neighbouring codes in the halves of a register, which is the form in
which tensor cores take numbers of 16 bits. (Lookups of this kind: Kim et al. 2022, "Who Says
Elephants Can't Run", arXiv 2211.10017, section 3.1; Frantar et al. 2024, Marlin, arXiv 2408.11743.)

Quarters 0 and 1, and 2 and 3, differ by a shift of 8 only: after it they are in the same bits.

A scale and its zero share a word: the float32 of the scale, its lowest four bits replaced by the
zero. Scales of 16 bits stay what they are, those of 32 are rounded to 20 significant bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor
from torch.nn.functional import pad

from mindpress.errors import ConfigError, NumericError
from mindpress.formats.quantized import QuantizedWeight, QuantSpec

BLOCK_INPUTS = 128
WORDS = BLOCK_INPUTS // 8
GROUPS = (128, 64, 32)
# Quarter of a block -> nibble of a word.
PLACES = (0, 2, 1, 3)
# Kernels load whole tiles of at most this many outputs without asking whether they exist.
PADDED_TO = 128
SLICE_WEIGHTS = 2**22


@dataclass(frozen=True, slots=True)
class TiledWeight:
    """Codes and scales as above; outputs are filled up to a multiple of 128, inputs to 128.

    What is filled in has scale 0. `dtype` is that of the activations it is multiplied with.
    """

    words: Int32[Tensor, "blocks padded 16"]
    scales: Int32[Tensor, "groups padded"]
    outputs: int
    inputs: int
    dtype: torch.dtype

    @property
    def group_size(self) -> int:
        """Inputs that share a scale: 128, 64 or 32."""
        return BLOCK_INPUTS * self.words.shape[0] // self.scales.shape[0]

    @property
    def nbytes(self) -> int:
        """Half a byte per weight, and four bytes per output and group."""
        return self.words.nbytes + self.scales.nbytes


def tile_weight(weight: QuantizedWeight, dtype: torch.dtype) -> TiledWeight:
    """`weight` for activations of `dtype` (float16 or bfloat16), on the device of its codes.

    Groups of other sizes, up to whole rows, become several of 128, 64 or 32 that share scale and
    zero. Peak memory: the result, and about 80 MiB. Raises ConfigError for other bits, a group no
    multiple of 32, outputs no multiple of 8; NumericError for scales that are not finite.
    """
    _check(weight, dtype)
    outputs, inputs = weight.codes.shape
    blocks, padded = -(-inputs // BLOCK_INPUTS), outputs + -outputs % PADDED_TO
    words = weight.codes.new_zeros((blocks, padded, WORDS), dtype=torch.int32)
    for rows in _slices(outputs, inputs):
        words[:, rows] = _words(weight.codes[rows]).transpose(0, 1)
    return TiledWeight(words, _scale_words(weight, blocks, padded), outputs, inputs, dtype)


def untile_weight(weight: TiledWeight) -> QuantizedWeight:
    """Inverse of `tile_weight`, with float32 scales and the groups of the tiles."""
    outputs, inputs, group = weight.outputs, weight.inputs, weight.group_size
    shifts = [4 * place + half for place in PLACES for half in (0, 16)]
    quarters = torch.stack([weight.words[:, :outputs] >> shift & 15 for shift in shifts], dim=-1)
    # [blocks, outputs, words, quarters, halves] as rows of inputs
    codes = quarters.unflatten(-1, (4, 2)).permute(1, 0, 3, 2, 4).flatten(1)
    scales = weight.scales[: inputs // group, :outputs].T.contiguous()
    return QuantizedWeight(
        codes=codes[:, :inputs].to(torch.uint8),
        scales=(scales & -16).view(torch.float32),
        zeros=(scales & 15).to(torch.uint8),
        spec=QuantSpec(4, group),
    )


def _slices(outputs: int, inputs: int) -> Iterator[slice]:
    step = max(1, SLICE_WEIGHTS // inputs)
    for first in range(0, outputs, step):
        yield slice(first, min(first + step, outputs))


def _words(codes: UInt8[Tensor, "rows inputs"]) -> Int32[Tensor, "rows blocks 16"]:
    if torch.any(codes > 15):
        raise ConfigError("the GPU kernel needs codes from 0 to 15")
    filled = pad(codes, (0, -codes.shape[1] % BLOCK_INPUTS)).to(torch.int32)
    quarters = filled.unflatten(1, (-1, len(PLACES), WORDS, 2))
    words = torch.zeros_like(quarters[:, :, 0, :, 0])
    for quarter, place in enumerate(PLACES):
        words |= quarters[:, :, quarter, :, 0] << 4 * place
        words |= quarters[:, :, quarter, :, 1] << 4 * place + 16
    return words


def _scale_words(
    weight: QuantizedWeight, blocks: int, padded: int
) -> Int32[Tensor, "groups padded"]:
    size = next(size for size in GROUPS if weight.group_size % size == 0)
    repeats = weight.group_size // size
    both = _with_zeros(weight.scales.float(), weight.zeros).repeat_interleave(repeats, dim=1)
    words = both.new_zeros((blocks * BLOCK_INPUTS // size, padded))
    words[: both.shape[1], : both.shape[0]] = both.T
    return words


def _with_zeros(
    scales: Float32[Tensor, "outputs groups"], zeros: UInt8[Tensor, "outputs groups"]
) -> Int32[Tensor, "outputs groups"]:
    if not torch.isfinite(scales).all():
        raise NumericError("a 4-bit weight has scales that are not finite")
    if torch.any(zeros > 15):
        raise ConfigError("the GPU kernel needs zeros from 0 to 15")
    return scales.contiguous().view(torch.int32) + 8 & -16 | zeros


def _check(weight: QuantizedWeight, dtype: torch.dtype) -> None:
    outputs, inputs = weight.codes.shape
    if dtype not in (torch.float16, torch.bfloat16):
        raise ConfigError(
            f"the GPU kernel multiplies float16 or bfloat16, not {dtype}",
            hint="use --dtype float16 or bfloat16",
        )
    if weight.spec.bits != 4:
        raise ConfigError(
            f"the GPU kernel multiplies 4-bit codes, these have {weight.spec.bits}",
            hint="dequantize the weight instead",
        )
    if weight.group_size % GROUPS[-1] != 0 or inputs % weight.group_size != 0:
        raise ConfigError(
            f"the GPU kernel needs groups of a multiple of 32 inputs, not {weight.group_size}",
            hint="quantize with groups of 32, 64 or 128",
        )
    if outputs % 8 != 0:
        raise ConfigError(
            f"the GPU kernel needs a multiple of 8 outputs, not {outputs}",
            hint="dequantize the weight instead",
        )
