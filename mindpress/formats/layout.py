"""What every layout of quantized linears in safetensors can say of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight, QuantSpec

WORDS = (torch.int32,)
# How programs that fuse linears call those that read one input.
FUSED = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj", "w1": "gate_up_proj"}

# Full names of linears that read one input: they are quantized in one way.
Together = tuple[str, ...]
Widths = Mapping[QuantSpec, tuple[Together, ...]]


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a quantized linear: what the header of its file must say."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    optional: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the first of its types, which is the one that is written."""
        return prod(self.shape) * self.dtypes[0].itemsize


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Modules that stay in floats: the head, `linears`, by their names in each of `blocks`, every
    linear of the blocks in `whole`, and those of `groups`. Programs that fuse linears name them
    otherwise, so that rules for whole blocks go by the block.
    """

    head: str
    linears: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    groups: tuple[Together, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Those of `head`, `linears` and `groups` by their full names."""
        inner = (f"{block}.{linear}" for block in self.blocks for linear in self.linears)
        return self.head, *inner, *(name for group in self.groups for name in group)


@runtime_checkable
class Layout(Protocol):
    """How a program writes quantized linears, as its `quantization_config` describes it.

    `method` is its `quant_method`, `label` names it for people. `index` is the part that says to
    which group an input belongs, where there is such a part; `written` are the parts of `pack`.
    `readers` are the programs that read such a folder, and `limits` says which usual one does not.
    `spec` is that of most linears; `of` gives the layout of each.
    """

    @property
    def method(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def spec(self) -> QuantSpec: ...
    @property
    def index(self) -> str | None: ...
    @property
    def written(self) -> tuple[str, ...]: ...
    @property
    def readers(self) -> tuple[str, ...]: ...
    @property
    def limits(self) -> tuple[str, ...]: ...

    def holds(self, outputs: int, inputs: int) -> bool:
        """Whether a linear of [outputs, inputs] fits: whole groups and whole words."""
        ...

    def parts(self, outputs: int, inputs: int) -> dict[str, Part]:
        """The tensors of such a linear by the last piece of their names."""
        ...

    def of(self, name: str) -> "Layout":
        """The layout of one linear, by its full name."""
        ...

    def with_spec(self, spec: QuantSpec) -> "Layout":
        """The same layout for other codes."""
        ...

    def skips(self, name: str) -> bool | None:
        """Whether the config leaves the linear `name` in floats; None when it does not say."""
        ...

    def quantization_config(self, left: LeftOut, widths: Widths) -> dict[str, Any]:
        """`quantization_config` of config.json, for the programs in `readers`.

        `widths` are the linears of each spec; none where all that is not left out has `spec`.
        """
        ...

    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """The tensors of a linear whose groups are neighbouring inputs, by the names in `written`.

        `parts` that are optional, and not written, are what other programs add.
        """
        ...

    def unpack(self, tensors: Mapping[str, Tensor], inputs: int) -> QuantizedWeight:
        """The weight in these parts, as if its groups were neighbouring inputs."""
        ...
