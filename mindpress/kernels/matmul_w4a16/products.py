"""Weights of 4 bits together with what multiplies them: one interface for every kernel."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.matmul_w4a16.cpu import matmul
from mindpress.kernels.matmul_w4a16.int4_torch import TorchInt4Weight, matmul_torch_int4
from mindpress.kernels.matmul_w4a16.onnx import OnnxWeight, matmul_onnx
from mindpress.kernels.matmul_w4a16.packed import PackedWeight

Rows = Float[Tensor, "*rows inputs"]
Products = Float[Tensor, "*rows outputs"]


@runtime_checkable
class Product(Protocol):
    """x -> x W^T."""

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and their scales."""
        ...

    def describe(self) -> str:
        """How it multiplies, for people."""
        ...

    def __call__(self, x: Rows) -> Products: ...


@dataclass(frozen=True, slots=True)
class CpuProduct:
    """By the compiled library; `exact` as if the weight were dequantized to float32."""

    weight: PackedWeight
    exact: bool

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        return "4 bits, exact" if self.exact else "4 bits, int8 activations"

    def __call__(self, x: Rows) -> Products:
        return matmul(x, self.weight, exact=self.exact)


@dataclass(frozen=True, slots=True)
class OnnxProduct:
    """By onnxruntime."""

    weight: OnnxWeight
    exact: bool

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        kept = "exact" if self.exact else "int8 activations"
        return f"4 bits, {kept}, onnxruntime"

    def __call__(self, x: Rows) -> Products:
        return matmul_onnx(x, self.weight)


@dataclass(frozen=True, slots=True)
class TorchInt4Product:
    """By torch, which rounds activations and scales to bfloat16."""

    weight: TorchInt4Weight

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        return "4 bits, bfloat16, torch"

    def __call__(self, x: Rows) -> Products:
        return matmul_torch_int4(x, self.weight)
