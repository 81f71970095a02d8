"""What every layout of quantized linears in safetensors can say of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight, QuantSpec

WORDS = (torch.int32,)


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a quantized linear: what the header of its file must say."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    optional: bool = False


@runtime_checkable
class Layout(Protocol):
    """How a program writes quantized linears, as its `quantization_config` describes it.

    `label` names it for people; `index` is the part that says to which group an input belongs,
    where there is such a part.
    """

    @property
    def label(self) -> str: ...
    @property
    def spec(self) -> QuantSpec: ...
    @property
    def index(self) -> str | None: ...

    def holds(self, outputs: int, inputs: int) -> bool:
        """Whether a linear of [outputs, inputs] fits: whole groups and whole words."""
        ...

    def parts(self, outputs: int, inputs: int) -> dict[str, Part]:
        """The tensors of such a linear by the last piece of their names."""
        ...

    def skips(self, name: str) -> bool | None:
        """Whether the config leaves the linear `name` in floats; None when it does not say."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor], inputs: int) -> QuantizedWeight:
        """The weight in these parts, as if its groups were neighbouring inputs."""
        ...
