"""Int8 weights together with what multiplies them: activations are rounded on the way in."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from mindpress.kernels.matmul_w8a8.cpu import PackedInt8Weight, matmul_w8a8_cpu, pack_int8_weight
from mindpress.kernels.matmul_w8a8.reference import matmul_w8a8_reference
from mindpress.kernels.matmul_w8a8.weight import Int8Weight
from mindpress.kernels.quantize_rows.cpu import quantize_rows_cpu
from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.kernels.quantize_rows.rows import Int8Rows

Rows = Float[Tensor, "*rows inputs"]
Products = Float[Tensor, "*rows outputs"]

SMALLEST_CODE = -128
NAME = "8 bits, int8 activations"


@runtime_checkable
class Int8Product(Protocol):
    """x -> Q(x) W^T in the type of x, Q as `quantize_rows_reference` defines it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and their scales."""
        ...

    def describe(self) -> str:
        """How it multiplies, for people."""
        ...

    def __call__(self, x: Rows) -> Products: ...


@dataclass(frozen=True, slots=True)
class Lowest:
    """Where codes of -128 are. llm-compressor's grid has them: its scale is absmax / 127.5."""

    outputs: Int64[Tensor, " places"]
    inputs: Int64[Tensor, " places"]
    scales: Float32[Tensor, " places"]

    def add_missing(self, y: Float32[Tensor, "rows outputs"], x: Int8Rows) -> None:
        """What the product with -127 in these places lacks, one code each; changes `y`."""
        missing = x.codes[:, self.inputs].float() * x.scales.unsqueeze(1) * self.scales
        y.index_add_(1, self.outputs, missing, alpha=-1)


@dataclass(frozen=True, slots=True)
class CpuInt8Product:
    """By the compiled library."""

    weight: PackedInt8Weight
    lowest: Lowest | None = None

    @staticmethod
    def of(weight: Int8Weight) -> "CpuInt8Product":
        """With -127 for -128, which the library cannot multiply with, and a list of those."""
        places = (weight.codes == SMALLEST_CODE).nonzero()
        if not len(places):
            return CpuInt8Product(pack_int8_weight(weight))
        outputs, inputs = places.unbind(1)
        clamped = Int8Weight(weight.codes.clamp(min=SMALLEST_CODE + 1), weight.scales)
        lowest = Lowest(outputs, inputs, weight.scales[outputs])
        return CpuInt8Product(pack_int8_weight(clamped), lowest)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        return NAME

    def __call__(self, x: Rows) -> Products:
        rows = quantize_rows_cpu(x.reshape(-1, x.shape[-1]))
        y = matmul_w8a8_cpu(rows, self.weight)
        if self.lowest is not None:
            self.lowest.add_missing(y, rows)
        return y.view(*x.shape[:-1], self.weight.outputs)


@dataclass(frozen=True, slots=True)
class ReferenceInt8Product:
    """By plain torch, on any device. Peak memory beside the result: eight bytes for each weight."""

    weight: Int8Weight

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        return f"{NAME}, reference"

    @torch.no_grad()
    def __call__(self, x: Rows) -> Products:
        rows = quantize_rows_reference(x.reshape(-1, x.shape[-1]))
        y = matmul_w8a8_reference(rows, self.weight, x.dtype)
        return y.view(*x.shape[:-1], self.weight.outputs)
