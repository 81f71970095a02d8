"""Which implementation of the kernels runs, decided in one place."""

from dataclasses import dataclass
from typing import Literal

import torch

from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantSpec
from mindpress.kernels.matmul_w4a16.packed import GROUPS
from mindpress.kernels.native.library import native

BITS = 4


@dataclass(frozen=True, slots=True)
class Kernels:
    """`name` is what multiplies with 4-bit weights, `reason` why; for people.

    `exact` keeps activations in float32; else they become int8 codes, which is faster.
    """

    name: Literal["cpu", "reference"]
    reason: str
    exact: bool = True

    def packs(self, spec: QuantSpec, outputs: int, inputs: int) -> bool:
        """Whether weights of this kind stay in 4 bits; others are dequantized when loaded."""
        fits = outputs % 8 == 0 and spec.fits(inputs) and spec.group_of(inputs) % GROUPS[-1] == 0
        return self.name == "cpu" and spec.bits == BITS and fits


def choose_kernels(
    wanted: Literal["auto", "cpu", "cpu-int8", "reference"],
    device: torch.device,
    dtype: torch.dtype,
) -> Kernels:
    """`auto` takes the compiled CPU kernels where they can run.

    ConfigError when they are asked for and cannot: no other ones take their place silently.
    """
    obstacle = _obstacle(device, dtype)
    if wanted.startswith("cpu") and obstacle:
        raise ConfigError(
            f"--kernels {wanted}: {obstacle}", hint="use --kernels reference, or leave it out"
        )
    if wanted == "reference":
        return Kernels("reference", "asked for")
    if obstacle:
        return Kernels("reference", obstacle)
    return Kernels("cpu", native().reason, exact=wanted != "cpu-int8")


def _obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"the CPU kernels compute on the CPU, not on {device.type}"
    if dtype != torch.float32:
        return f"the CPU kernels compute in float32, not in {str(dtype).removeprefix('torch.')}"
    return None if native().library else native().reason
