"""An int8 weight with the Triton kernels that multiply it."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.matmul_w8a8.gpu import matmul_w8a8
from mindpress.kernels.matmul_w8a8.products import NAME
from mindpress.kernels.matmul_w8a8.weight import Int8Weight
from mindpress.kernels.quantize_rows.gpu import quantize_rows


@dataclass(frozen=True, slots=True)
class TritonInt8Product:
    """Two launches; a third where few rows make the kernel split a tile and need room for it."""

    weight: Int8Weight

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        return f"{NAME}, triton"

    def __call__(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        rows = quantize_rows(x.reshape(-1, x.shape[-1]))
        y = matmul_w8a8(rows, self.weight, x.dtype)
        return y.view(*x.shape[:-1], self.weight.outputs)
