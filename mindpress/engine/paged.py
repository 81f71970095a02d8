"""Attention of sequences of any length, each with its keys and values in pages."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mindpress.engine.layer import Layer
from mindpress.engine.norm import head_norms
from mindpress.engine.rotary import Table, rotate
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring
from mindpress.kernels.paged import PagedOperations
from mindpress.kernels.rotary_write import HeadNorm
from mindpress.models.shape import ModelShape

Heads = Float[Tensor, "rows heads channels"]


@dataclass(frozen=True, slots=True)
class LayerPages:
    """Keys and values of a layer."""

    keys: CachePages
    values: CachePages

    @property
    def nbytes(self) -> int:
        """Bytes of all pages of the layer."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True)
class Places:
    """Where the rows of a step stand: angles of their positions, and slots for what they store."""

    cosines: Table
    sines: Table
    slots: Int[Tensor, " rows"]
    batch: PagedBatch


class PagedMixing:
    """`Mixing` of rows of many sequences."""

    def __init__(
        self,
        shape: ModelShape,
        pages: list[LayerPages],
        operations: PagedOperations,
        places: Places,
    ) -> None:
        self._shape, self._pages, self._operations = shape, pages, operations
        self._places = places
        self._angles = places.cosines, places.sines

    def __call__(
        self, index: int, layer: Layer, fused: Float[Tensor, "rows channels"]
    ) -> Float[Tensor, "rows mixed"]:
        shape, pages, batch = self._shape, self._pages[index], self._places.batch
        query = self._stored(layer, pages, fused)
        scoring = Scoring(shape.query_scale, layer.window, shape.attention_cap)
        mixed = self._operations.attend(query, pages.keys, pages.values, batch, scoring)
        return mixed.flatten(1)

    def _stored(self, layer: Layer, pages: LayerPages, fused: Tensor) -> Heads:
        """Turned queries; keys, turned, and values are in their pages."""
        shape, places, operations = self._shape, self._places, self._operations
        weights = layer.head_norm
        if operations.rotate_and_write is not None:
            norm = None if weights is None else HeadNorm(weights, shape.norm_eps)
            both = pages.keys, pages.values
            return operations.rotate_and_write(fused, self._angles, both, places.slots, norm)
        heads = fused.unflatten(-1, (-1, shape.head_dim))
        turned, values = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        if weights is not None:
            turned = head_norms(turned, weights, shape.norm_eps)
        turned = rotate(turned, *(table.unsqueeze(1) for table in self._angles))
        query, keys = turned.split([shape.heads, shape.kv_heads], dim=1)
        operations.write(pages.keys, places.slots, keys)
        operations.write(pages.values, places.slots, values)
        return query
