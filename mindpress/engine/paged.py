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
        self._tables = places.cosines.unsqueeze(1), places.sines.unsqueeze(1)

    def __call__(
        self, index: int, layer: Layer, fused: Float[Tensor, "rows channels"]
    ) -> Float[Tensor, "rows mixed"]:
        shape, pages, places = self._shape, self._pages[index], self._places
        heads = fused.unflatten(-1, (-1, shape.head_dim))
        turned, values = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        if layer.head_norm is not None:
            turned = head_norms(turned, layer.head_norm, shape.norm_eps)
        turned = rotate(turned, *self._tables)
        query, keys = turned.split([shape.heads, shape.kv_heads], dim=1)
        self._operations.write(pages.keys, places.slots, keys)
        self._operations.write(pages.values, places.slots, values)
        scoring = Scoring(shape.query_scale, layer.window, shape.attention_cap)
        mixed = self._operations.attend(query, pages.keys, pages.values, places.batch, scoring)
        return mixed.flatten(1)
