"""Activations of 8 bits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """x[r, i] ≈ codes[r, i] * scales[r], codes in -127..127.

    A row of zeros has the scale 0; a row with NaN or infinity the scale NaN and codes of 0, so that
    every product with it is NaN.
    """

    codes: Int8[Tensor, "rows inputs"]
    scales: Float32[Tensor, " rows"]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "rows inputs"]:
        """What the codes stand for."""
        return self.codes.to(dtype) * self.scales.to(dtype).unsqueeze(1)
