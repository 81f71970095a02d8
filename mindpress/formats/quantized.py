"""The one in-memory form of a quantized weight, between every algorithm and every format."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mindpress.errors import ConfigError

WHOLE_ROW = -1


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How weights become integers: `bits` per code, one scale and one zero per group of inputs.

    `group_size` counts neighbouring input channels; -1 is the whole row. A symmetric spec has
    its zero at the middle code.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"{self.bits}-bit codes are not supported", hint="use 2 to 8 bits")
        if self.group_size < 1 and self.group_size != WHOLE_ROW:
            raise ConfigError(
                f"group size must be positive, got {self.group_size}",
                hint="use 32, 64, 128, or -1 for the whole row",
            )

    @property
    def max_code(self) -> int:
        return 2**self.bits - 1

    def group_of(self, inputs: int) -> int:
        """Channels in a group of a row of `inputs` channels."""
        return inputs if self.group_size == WHOLE_ROW else self.group_size

    def fits(self, inputs: int) -> bool:
        """Whether whole groups fill a row of `inputs` channels."""
        return inputs % self.group_of(inputs) == 0


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """weight[o, i] ≈ (codes[o, i] - zeros[o, g]) * scales[o, g], with g = i // group size."""

    codes: UInt8[Tensor, "outputs inputs"]
    scales: Float[Tensor, "outputs groups"]
    zeros: UInt8[Tensor, "outputs groups"]
    spec: QuantSpec

    @property
    def group_size(self) -> int:
        """Channels in a group, also when the spec says -1."""
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantize(self, dtype: torch.dtype | None = None) -> Float[Tensor, "outputs inputs"]:
        """The weight the codes stand for, computed in float32, in `dtype` (default: of scales)."""
        weight = self.codes.unflatten(-1, (-1, self.group_size)).float()
        weight.sub_(self.zeros.float().unsqueeze(-1)).mul_(self.scales.float().unsqueeze(-1))
        return weight.flatten(-2).to(dtype or self.scales.dtype)

    def to(self, device: torch.device) -> "QuantizedWeight":
        """The same weight in the memory of `device`."""
        return QuantizedWeight(
            self.codes.to(device), self.scales.to(device), self.zeros.to(device), self.spec
        )

    def rows(self, index: Int[Tensor, " chosen"] | slice) -> "QuantizedWeight":
        """The same weight with only these output rows, in this order."""
        return QuantizedWeight(self.codes[index], self.scales[index], self.zeros[index], self.spec)


def stack_rows(parts: list[QuantizedWeight]) -> QuantizedWeight:
    """One weight whose output rows are those of `parts`, one after the other."""
    return QuantizedWeight(
        codes=torch.cat([part.codes for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=torch.cat([part.zeros for part in parts]),
        spec=parts[0].spec,
    )
