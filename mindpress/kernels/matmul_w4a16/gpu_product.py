"""A weight of 4 bits with the Triton kernels that multiply it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mindpress.kernels.matmul_w4a16.gpu import (
    Workspace,
    matmul_triton,
    new_workspace,
    workspace_for,
)
from mindpress.kernels.matmul_w4a16.regimes import TileConfig
from mindpress.kernels.matmul_w4a16.tiles import TiledWeight
from mindpress.kernels.tuning.key import bucket


@dataclass(slots=True)
class Tiles:
    """Tuned tiles by the bucket of rows, and the room for sums of split products: without it each
    such product makes room of its own, which costs a launch. One room serves one stream."""

    configs: dict[int, TileConfig] = field(default_factory=dict)
    room: Workspace | None = None


@dataclass(frozen=True, slots=True)
class TritonProduct:
    """What `tiles` does not know is the kernel's own choice."""

    weight: TiledWeight
    tiles: Tiles = field(default_factory=Tiles)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes

    def describe(self) -> str:
        return "4 bits, triton"

    def __call__(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        config = self.tiles.configs.get(bucket(x.shape[:-1].numel()))
        return matmul_triton(x, self.weight, config, self.tiles.room)


def share_room(products: Sequence[TritonProduct], most_rows: int) -> None:
    """Give all `products` one workspace for up to `most_rows` rows, by default or tuned tiles."""
    if not products:
        return
    least = workspace_for([product.weight for product in products], most_rows)
    numbers, tiles = least.partials.numel(), least.arrived.numel()
    for product in products:
        outputs = product.weight.outputs
        for rows, config in product.tiles.configs.items():
            numbers = max(numbers, config.partial_sums(rows, outputs))
            tiles = max(tiles, config.tiles(rows, outputs))
    room = new_workspace(numbers, tiles, least.partials.device)
    for product in products:
        product.tiles.room = room
