"""A weight of int8 codes with a scale for each output channel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from mindpress.errors import InputError
from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.kernels.quantize_rows.rows import Int8Rows

MOST_INPUTS = 2**17  # 127 * 127 * 2^17 < 2^31: no sum overflows


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """weight[o, i] ≈ codes[o, i] * scales[o], codes in -127..127."""

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

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "outputs inputs"]:
        """The weight the codes stand for."""
        return self.codes.to(dtype) * self.scales.to(dtype).unsqueeze(1)


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
