"""A weight of 4 bits with the Triton kernels that multiply it."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.matmul_w4a16.gpu import matmul_triton
from mindpress.kernels.matmul_w4a16.regimes import TileConfig
from mindpress.kernels.matmul_w4a16.tiles import TiledWeight
from mindpress.kernels.tuning.key import bucket


@dataclass(frozen=True, slots=True)
class TritonProduct:
    """`configs` are tuned tiles by the bucket of rows; others are the kernel's own choice."""

    weight: TiledWeight
    configs: dict[int, TileConfig] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        return "4 bits, triton"

    def __call__(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        rows = x.shape[:-1].numel()
        return matmul_triton(x, self.weight, self.configs.get(bucket(rows)))
