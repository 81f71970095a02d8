"""The bytes of one matrix in a TurboMind workspace: 16-bit floats, int4 tiles, int4 words.

A file holds [inputs, outputs], the transpose of Hugging Face's weight, without a header. The ini
layout (LMDeploy 0.1 to 0.5) cuts int4 codes into the tiles its tensor-core kernels read; the yaml
layout (from 0.6) stores them in plain order.
Source: LMDeploy v0.5.3, src/turbomind/kernels/gemm_s_f16/format.cu, and v0.6.0,
lmdeploy/turbomind/deploy/; the tile order is derived from workspaces those releases wrote.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Float16, Int32, UInt8
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.packing import PLAIN_ORDER, pack_words, unpack_words
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.formats.ranks import Part

Layout = Literal["ini", "yaml"]
BITS = 4
CODES_PER_WORD = 8
TILE = 32
# How input row r and output column c of a tile are split: r = (2, 2, 4, 2), c = (2, 2, 8), the
# largest step first.
TILE_BITS = (2, 2, 4, 2), (2, 2, 8)
# The kernels subtract zeros in float16 from codes that they read as 64 + code.
ZERO_OFFSET = 64


def pack_tiles(codes: UInt8[Tensor, "inputs outputs"]) -> Int32[Tensor, "words 1"]:
    """Codes in tiles of 32 x 32, 128 words each, in the order of an mma fragment.

    For row r and column c of a tile: lane (c mod 8) * 4 + (r mod 8) div 2, word 2 * (r div 16) +
    (c div 16) of the lane, nibble 4 * (r mod 2) + 2 * (r div 8 mod 2) + (c div 8 mod 2).
    Both sizes are multiples of 32.
    """
    (a, b, c, e), (f, h, j) = TILE_BITS
    inputs, outputs = codes.shape
    split = codes.reshape(inputs // TILE, a, b, c, e, outputs // TILE, f, h, j)
    ordered = split.permute(0, 5, 8, 3, 1, 6, 4, 2, 7)
    return pack_words(ordered.reshape(-1, CODES_PER_WORD), BITS, PLAIN_ORDER)


def unpack_tiles(
    words: Int32[Tensor, "words 1"], inputs: int, outputs: int
) -> UInt8[Tensor, "inputs outputs"]:
    """Inverse of `pack_tiles`."""
    (a, b, c, e), (f, h, j) = TILE_BITS
    ordered = unpack_words(words, BITS, PLAIN_ORDER)
    split = ordered.reshape(inputs // TILE, outputs // TILE, j, c, a, f, e, b, h)
    return split.permute(0, 4, 7, 3, 6, 1, 5, 8, 2).reshape(inputs, outputs)


def pack_scales_zeros(
    scales: Float[Tensor, "groups outputs"], zeros: UInt8[Tensor, "groups outputs"]
) -> Float16[Tensor, "groups outputs pair"]:
    """Pairs of (64 + zero, scale)."""
    shifted = zeros.to(torch.float16) + ZERO_OFFSET
    return torch.stack((shifted, scales.to(torch.float16)), dim=-1)


def unpack_scales_zeros(
    pairs: Float16[Tensor, "groups outputs pair"],
) -> tuple[Float16[Tensor, "groups outputs"], UInt8[Tensor, "groups outputs"]]:
    """Inverse of `pack_scales_zeros`."""
    shifted, scales = pairs.unbind(-1)
    return scales, _codes(shifted - ZERO_OFFSET)


def encode(part: Part, layout: Layout) -> dict[str, Tensor]:
    """The files of a weight [outputs, inputs] by the last part of their names.

    That of a float weight is a transposed view: whoever writes it copies it anyway, and torch's
    blocked copy, ten times as fast as its strided one, needs a whole matrix to transpose.
    """
    if isinstance(part, Tensor):
        return {"weight": part.contiguous().t()}
    codes, scales, zeros = (x.t() for x in (part.codes, part.scales, part.zeros))
    if layout == "ini":
        return {"qweight": pack_tiles(codes), "scales_zeros": pack_scales_zeros(scales, zeros)}
    return {
        "qweight": pack_words(codes.contiguous(), BITS, PLAIN_ORDER),
        "scales": scales.to(torch.float16).contiguous(),
        "zeros": zeros.to(torch.float16).contiguous(),
    }


def decode(files: Mapping[str, Tensor], outputs: int, inputs: int, spec: QuantSpec | None) -> Part:
    """Inverse of `encode`. `files` are flat; `spec` is that of the codes, None for floats."""
    if spec is None:
        return files["weight"].reshape(inputs, outputs).t().contiguous()
    groups = inputs // spec.group_of(inputs)
    if "scales_zeros" in files:
        codes = unpack_tiles(files["qweight"].view(-1, 1), inputs, outputs)
        scales, zeros = unpack_scales_zeros(files["scales_zeros"].view(groups, outputs, 2))
    else:
        words = files["qweight"].view(inputs, outputs // CODES_PER_WORD)
        codes = unpack_words(words, BITS, PLAIN_ORDER)
        scales, zeros = files["scales"].view(groups, outputs), files["zeros"].view(groups, outputs)
        zeros = _codes(zeros)
    return QuantizedWeight(
        codes.t().contiguous(), scales.t().contiguous(), zeros.t().contiguous(), spec
    )


def sizes(outputs: int, inputs: int, layout: Layout, spec: QuantSpec | None) -> dict[str, int]:
    """Bytes of each file of `encode`."""
    if spec is None:
        return {"weight": outputs * inputs * 2}
    qweight, values = outputs * inputs // 2, outputs * (inputs // spec.group_of(inputs)) * 2
    if layout == "ini":
        return {"qweight": qweight, "scales_zeros": 2 * values}
    return {"qweight": qweight, "scales": values, "zeros": values}


def _codes(values: Float16[Tensor, "groups outputs"]) -> UInt8[Tensor, "groups outputs"]:
    """Zero points out of a file, which may be damaged."""
    codes = values.nan_to_num().clamp(0, 2**BITS - 1).to(torch.uint8)
    if not torch.equal(codes.to(torch.float16), values):
        raise InputError("a zero point is no whole number from 0 to 15")
    return codes
