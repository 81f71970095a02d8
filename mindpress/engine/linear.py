"""The linears a decoder multiplies with: the one place that knows whether they are quantized.

4-bit weights stay in 4 bits where a kernel multiplies with their codes, and int8 weights in int8
where the model rounds the activations, too; others are dequantized once, when they are loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mindpress.formats.activations import Activations
from mindpress.formats.finite import check_finite
from mindpress.formats.quantized import QuantizedWeight, QuantSpec, stack_rows
from mindpress.kernels.dispatch import Kernels
from mindpress.kernels.matmul_w4a16.products import Product
from mindpress.kernels.matmul_w8a8.products import CpuInt8Product, Int8Product
from mindpress.kernels.matmul_w8a8.weight import Int8Weight, is_int8, quantize_weight
from mindpress.kernels.matmul_w16.cpu import DTYPES as HALVES
from mindpress.kernels.matmul_w16.cpu import matmul_w16_cpu
from mindpress.sources.source import LinearWeight

NOT_FINITE = "download the model again, or try --dtype bfloat16 if they are too large"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where weights go, in which type they compute, and which kernels multiply with codes.

    `add` adds up what the processes of a tensor-parallel run computed. `activations` is how the
    model rounds what quantized linears read.
    """

    device: torch.device
    dtype: torch.dtype
    kernels: Kernels
    add: Callable[[Tensor], Tensor] | None = None
    activations: Activations | None = None

    def rounds(self, spec: QuantSpec, inputs: int) -> bool:
        """Whether weights of this kind are multiplied with rounded activations."""
        return self.activations == "per token" and is_int8(spec, inputs)


@dataclass(frozen=True, slots=True)
class FloatLinear:
    """x W^T + b."""

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self.weight.nbytes

    def describe(self) -> str:
        """Nothing to say beside the type."""
        return ""

    def __call__(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """x W^T + b with a weight of 4 bits."""

    weight: Product
    bias: Float[Tensor, " outputs"] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and their scales."""
        return self.weight.nbytes

    def describe(self) -> str:
        """For people."""
        return self.weight.describe()

    def __call__(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        product = self.weight(x)
        return product if self.bias is None else product.add_(self.bias)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """x W^T + b with int8 codes of x and W: a scale for each output, and for each row of x."""

    weight: Int8Product
    bias: Float[Tensor, " outputs"] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and their scales."""
        return self.weight.nbytes

    def describe(self) -> str:
        """For people."""
        return self.weight.describe()

    def __call__(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        product = self.weight(x)
        return product if self.bias is None else product.add_(self.bias)


@dataclass(frozen=True, slots=True)
class HalfLinear:
    """x W^T in float32 with a weight that stays in the 16 bits it was stored in."""

    weight: Float[Tensor, "outputs inputs"]

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self.weight.nbytes

    def describe(self) -> str:
        """For people."""
        return "16 bits, exact"

    def __call__(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        return matmul_w16_cpu(x, self.weight)


Head = FloatLinear | HalfLinear | Int8Linear


def outer_dtype(stored: torch.dtype, place: Placement) -> torch.dtype:
    """In which type embedding and head are kept: 16 bits where the CPU kernels widen them."""
    return stored if place.kernels.name == "cpu" and stored in HALVES else place.dtype


def head_of(stored: Float[Tensor, "vocab hidden"], place: Placement) -> Head:
    """The product that gives logits. It is the largest matrix of a small model and read for every
    token: the CPU kernels keep it in its 16 bits, or in int8 where activations are codes anyway.
    """
    kernels, ours = place.kernels, place.kernels.name == "cpu"
    if ours and not kernels.exact and stored.shape[1] % 4 == 0:
        return Int8Linear(CpuInt8Product.of(quantize_weight(stored)))
    if ours and stored.dtype in HALVES:
        return HalfLinear(stored.contiguous())
    return FloatLinear(stored)


Own = FloatLinear | PackedLinear | Int8Linear


@dataclass(frozen=True, slots=True)
class SummedLinear:
    """The product of a part of the inputs, and those of all other processes added to it."""

    own: Own
    add: Callable[[Tensor], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of this process's part."""
        return self.own.nbytes

    def describe(self) -> str:
        """For people."""
        return self.own.describe()

    def __call__(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        return self.add(self.own(x))


Linear = Own | SummedLinear


def stack(parts: Sequence[LinearWeight], place: Placement, name: str) -> Own:
    """One linear whose output rows are those of `parts`, one after the other.

    Linears that read the same input become one matrix product. Raises NumericError when a weight
    is not finite in the type it is computed in; `name` says where. Peak memory: the result, and
    one part; of packed codes, the result and all parts with a byte for each weight.
    """
    bias = _bias(parts, place, name)
    codes = [part.weight for part in parts if isinstance(part.weight, QuantizedWeight)]
    alike = len(codes) == len(parts) and len({part.spec for part in codes}) == 1
    if alike and _stays_in_codes(codes, place):
        stacked = stack_rows(codes).to(place.device)
        check_finite(stacked.scales, f"{name} scales", NOT_FINITE)
        if place.rounds(stacked.spec, stacked.codes.shape[1]):
            return Int8Linear(place.kernels.pack_int8(Int8Weight.of(stacked)), bias)
        return PackedLinear(place.kernels.pack(stacked, place.dtype), bias)
    sizes = [_dense_shape(part)[0] for part in parts]
    columns = _dense_shape(parts[0])[1]
    weight = torch.empty(sum(sizes), columns, dtype=place.dtype, device=place.device)
    for part, rows in zip(parts, weight.split(sizes), strict=True):
        _fill(rows, part)
    check_finite(weight, f"{name} weights in {place.dtype}", NOT_FINITE)
    return FloatLinear(weight, bias)


def _stays_in_codes(codes: Sequence[QuantizedWeight], place: Placement) -> bool:
    outputs, inputs = sum(len(part.codes) for part in codes), codes[0].codes.shape[1]
    spec = codes[0].spec
    return place.rounds(spec, inputs) or place.kernels.packs(spec, outputs, inputs)


def _bias(
    parts: Sequence[LinearWeight], place: Placement, name: str
) -> Float[Tensor, " outputs"] | None:
    """The biases of all parts, zeros where one has none; None when none has."""
    if all(part.bias is None for part in parts):
        return None
    sizes = [_dense_shape(part)[0] for part in parts]
    bias = torch.zeros(sum(sizes), dtype=place.dtype, device=place.device)
    for part, rows in zip(parts, bias.split(sizes), strict=True):
        if part.bias is not None:
            rows.copy_(part.bias)
    check_finite(bias, f"{name} biases in {place.dtype}", NOT_FINITE)
    return bias


def _fill(rows: Float[Tensor, "rows inputs"], part: LinearWeight) -> None:
    if isinstance(part.weight, QuantizedWeight):
        rows.copy_(part.weight.dequantize(torch.float32))
    else:
        rows.copy_(part.weight)


def _dense_shape(part: LinearWeight) -> torch.Size:
    return (part.weight.codes if isinstance(part.weight, QuantizedWeight) else part.weight).shape
