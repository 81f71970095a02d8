"""What programs that share a tile leave for one another."""

from dataclasses import dataclass

import torch
from jaxtyping import Int32
from torch import Tensor

from mindpress.errors import ResourceError
from mindpress.kernels.matmul_w8a8.tiles import TileConfig


@dataclass(frozen=True, slots=True)
class Workspace:
    """Sums of the parts, and how many parts of each tile have arrived: 0 between two products.

    Products that run one after the other can share one, as can all replays of a CUDA graph;
    products on different streams cannot.
    """

    partials: Int32[Tensor, " sums"]
    counters: Int32[Tensor, " tiles"]

    def check(self, config: TileConfig, rows: int, outputs: int) -> None:
        """ResourceError when the product needs more."""
        sums, tiles = config.partials(rows, outputs), config.tiles(rows, outputs)
        if config.split > 1 and (len(self.partials) < sums or len(self.counters) < tiles):
            raise ResourceError(
                f"the product needs a workspace of {sums} sums and {tiles} tiles, "
                f"this one has {len(self.partials)} and {len(self.counters)}",
                hint="make it for the largest product of all",
            )


def new_workspace(config: TileConfig, rows: int, outputs: int, device: torch.device) -> Workspace:
    """Room for one product: four bytes for each sum, nothing where nothing is shared."""
    tiles = config.tiles(rows, outputs) if config.split > 1 else 0
    sums = torch.empty(config.partials(rows, outputs), dtype=torch.int32, device=device)
    return Workspace(sums, torch.zeros(tiles, dtype=torch.int32, device=device))
