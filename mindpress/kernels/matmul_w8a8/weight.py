"""A weight of int8 codes with a scale for each output channel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.quantized import WHOLE_ROW, QuantizedWeight, QuantSpec
from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.kernels.quantize_rows.rows import Int8Rows

MOST_INPUTS = 2**17  # 127 * 127 * 2^17 < 2^31: no sum overflows
MIDDLE = 128  # the code of 0 in a `QuantizedWeight`, whose codes have no sign
INT8 = QuantSpec(8, WHOLE_ROW, symmetric=True)


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """weight[o, i] ≈ codes[o, i] * scales[o]; our codes are -127..127, of other tools also -128."""

    codes: Int8[Tensor, "outputs inputs"]
    scales: Float32[Tensor, " outputs"]

    @property
    def outputs(self) -> int:
        return self.codes.shape[0]

    @property
    def inputs(self) -> int:
        return self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        """A byte per weight, and four per output."""
        return self.codes.nbytes + self.scales.nbytes

    @staticmethod
    def of(weight: QuantizedWeight) -> "Int8Weight":
        """The same weight; its spec must be one that `is_int8` knows."""
        codes = (weight.codes.to(torch.int16) - MIDDLE).to(torch.int8)
        return Int8Weight(codes, weight.scales[:, 0].float().contiguous())

    def quantized(self) -> QuantizedWeight:
        """The same weight in the form that every format packs. Its scales are float32."""
        codes = (self.codes.to(torch.int16) + MIDDLE).to(torch.uint8)
        scales = self.scales.unsqueeze(1)
        return QuantizedWeight(codes, scales, torch.full_like(scales, MIDDLE).byte(), INT8)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "outputs inputs"]:
        """The weight the codes stand for."""
        return self.codes.to(dtype) * self.scales.to(dtype).unsqueeze(1)


def is_int8(spec: QuantSpec, inputs: int) -> bool:
    """Whether weights of `inputs` channels have this form: no zeros, one scale for each output."""
    return spec.bits == INT8.bits and spec.symmetric and spec.group_of(inputs) == inputs


def quantize_weight(weight: Float[Tensor, "outputs inputs"]) -> Int8Weight:
    """Symmetric, rounded to the nearest code, scale = absmax / 127 of each output channel.

    The rules are those of `quantize_rows_reference`: a channel with NaN or infinity has the scale
    NaN. Peak memory: three float32 copies of the weight.
    """
    rows = quantize_rows_reference(weight)
    return Int8Weight(rows.codes, rows.scales)


def check_product(x: Int8Rows, weight: Int8Weight) -> None:
    """InputError when x does not fit the weight, or sums could overflow int32."""
    if x.codes.shape[1] != weight.inputs:
        raise InputError(f"the weight has {weight.inputs} inputs, x has {x.codes.shape[1]}")
    if weight.inputs > MOST_INPUTS:
        raise InputError(f"sums of {weight.inputs} products can overflow; at most {MOST_INPUTS}")
