"""What to tune of `matmul_w4a16` for a model, and how to time one of its products.

table = known_table()
tune_missing(table, wanted(shapes_of(weights), device), ProductClock(device))
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from mindpress.kernels.matmul_w4a16.gpu import matmul_triton, new_workspace
from mindpress.kernels.matmul_w4a16.regimes import TileConfig, candidates
from mindpress.kernels.matmul_w4a16.tiles import BLOCK_INPUTS, PADDED_TO, WORDS, TiledWeight
from mindpress.kernels.tuning.clock import (
    Launch,
    capability_of,
    copies_to_rotate,
    milliseconds,
    rotated,
)
from mindpress.kernels.tuning.key import Key

OPERATION = "matmul_w4a16"
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
Measure = Callable[[Sequence[Launch], torch.device], float]


@dataclass(frozen=True, slots=True)
class ProductShape:
    """Of a weight: sizes, inputs that share a scale, and the type of the activations."""

    outputs: int
    inputs: int
    group: int
    dtype: torch.dtype


def shapes_of(weights: Iterable[TiledWeight]) -> list[ProductShape]:
    """The different ones, in order."""
    every = (ProductShape(one.outputs, one.inputs, one.group_size, one.dtype) for one in weights)
    return list(dict.fromkeys(every))


def key_of(shape: ProductShape, rows: int, device: torch.device) -> Key:
    """Where the table has the tiles for so many rows, which are a bucket."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    dtype = str(shape.dtype).removeprefix("torch.")
    return Key(name, OPERATION, shape.outputs, shape.inputs, shape.group, dtype, rows)


def wanted(
    shapes: Iterable[ProductShape], device: torch.device, buckets: Sequence[int] = BUCKETS
) -> dict[Key, tuple[TileConfig, ...]]:
    """The candidates for every shape and bucket, the default first."""
    capability = capability_of(device)
    return {
        key_of(shape, rows, device): candidates(
            capability, rows, shape.outputs, shape.inputs, shape.group
        )
        for shape in shapes
        for rows in buckets
    }


class ProductClock:
    """Milliseconds of a product with random weights, for `tune_missing`.

    Memory: copies of the weight of the last shape, together four times the second-level cache.
    """

    def __init__(self, device: torch.device, measure: Measure = milliseconds) -> None:
        self._device, self._measure = device, measure
        self._shape: Key | None = None
        self._weights: list[TiledWeight] = []

    def __call__(self, key: Key, config: TileConfig) -> float:
        x = torch.randn(key.rows, key.inputs, dtype=_dtype(key), device=self._device)
        sums = config.partial_sums(key.rows, key.outputs)
        room = new_workspace(sums, config.tiles(key.rows, key.outputs), self._device)
        launches = [
            partial(matmul_triton, x, weight, config, room) for weight in self._rotated(key)
        ]
        return self._measure(launches, self._device)

    def _rotated(self, key: Key) -> list[TiledWeight]:
        shape = replace(key, rows=0)
        if shape != self._shape:
            self._weights = []
            first = random_weight(key, self._device)
            copies = copies_to_rotate(first.nbytes, self._device)
            self._weights = [first, *(_copy(first) for _ in range(copies - 1))]
            self._shape = shape
        return rotated(self._weights, self._device)


def random_weight(key: Key, device: torch.device) -> TiledWeight:
    """Codes and zeros of any value, scales of a linear layer's size."""
    blocks, padded = -(-key.inputs // BLOCK_INPUTS), key.outputs + -key.outputs % PADDED_TO
    size = blocks, padded, WORDS
    words = torch.randint(-(2**31), 2**31, size, dtype=torch.int32, device=device)
    scales = torch.rand(blocks * BLOCK_INPUTS // key.group, padded, device=device) * 0.01 + 0.001
    zeros = torch.randint_like(scales, 16, dtype=torch.int32)
    both = (scales.view(torch.int32) & -16) | zeros
    return TiledWeight(words, both, key.outputs, key.inputs, _dtype(key))


def _copy(weight: TiledWeight) -> TiledWeight:
    return replace(weight, words=weight.words.clone(), scales=weight.scales.clone())


def _dtype(key: Key) -> torch.dtype:
    return getattr(torch, key.dtype)
