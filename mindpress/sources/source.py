"""The form in which every format gives its weights: one linear per role, whatever was fused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from mindpress.formats.activations import Activations
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.models.description import Architecture, Role
from mindpress.models.shape import ModelShape


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """Weight [outputs, inputs] of one role, in 16 or 32 bits or quantized, and its bias."""

    weight: Tensor | QuantizedWeight
    bias: Tensor | None = None


@runtime_checkable
class ModelSource(Protocol):
    """A model on disk. Each call reads from the files; nothing is kept."""

    @property
    def architecture(self) -> Architecture: ...
    @property
    def shape(self) -> ModelShape: ...
    @property
    def tokenizer_folder(self) -> Path: ...
    @property
    def spec(self) -> QuantSpec | None:
        """How most linears are quantized; None when all are floats."""
        ...

    def spec_of(self, layer: int, role: Role) -> QuantSpec | None:
        """How one linear is quantized; None where it is in floats."""
        ...

    @property
    def activations(self) -> Activations | None:
        """How what quantized linears read is rounded; None where it stays as it is."""
        ...

    def linears(self, layer: int) -> dict[Role, LinearWeight]:
        """The seven linears of a block, in Hugging Face's order of rows and columns."""
        ...

    def norms(self, layer: int) -> dict[str, Tensor]:
        """The norms of a block by the field of `Block` that names them."""
        ...

    def embedding(self) -> Tensor:
        """[vocab, hidden]"""
        ...

    def final_norm(self) -> Tensor:
        """[hidden]"""
        ...

    def head(self) -> Tensor:
        """[vocab, hidden]; the embedding when they are tied."""
        ...
