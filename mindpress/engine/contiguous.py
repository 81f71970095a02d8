"""Attention of sequences of equal length, each with its keys and values in one piece."""

from jaxtyping import Float
from torch import Tensor

from mindpress.engine.attention import attend, view_of
from mindpress.engine.cache import Cache
from mindpress.engine.layer import Layer
from mindpress.engine.norm import head_norms
from mindpress.engine.rotary import Table, rotate
from mindpress.models.shape import ModelShape


class ContiguousMixing:
    """`Mixing` of [batch, length] tokens that follow those in `cache`."""

    def __init__(self, shape: ModelShape, cache: Cache | None, tables: tuple[Table, Table]) -> None:
        self._shape, self._cache, self._tables = shape, cache, tables
        past, length = (cache.length if cache else 0), len(tables[0])
        windows = set(shape.windows or [None])
        device = tables[0].device
        self._views = {window: view_of(past, length, window, device) for window in windows}

    def __call__(
        self, index: int, layer: Layer, fused: Float[Tensor, "batch length channels"]
    ) -> Float[Tensor, "batch length mixed"]:
        shape = self._shape
        heads = fused.unflatten(-1, (-1, shape.head_dim))
        turned, values = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=2)
        if layer.head_norm is not None:
            turned = head_norms(turned, layer.head_norm, shape.norm_eps)
        turned = rotate(turned.transpose(1, 2), *self._tables)
        query, keys = turned.split([shape.heads, shape.kv_heads], dim=1)
        mixed = self._attend(index, layer, query, keys, values.transpose(1, 2))
        return mixed.transpose(1, 2).flatten(2)

    def _attend(
        self, index: int, layer: Layer, query: Tensor, keys: Tensor, values: Tensor
    ) -> Float[Tensor, "batch heads length channels"]:
        attention = attend if self._cache is None else self._cache.layers[index].attend
        scale, cap = self._shape.query_scale, self._shape.attention_cap
        view = self._views[layer.window]
        return attention(query, keys, values, view, scale=scale, cap=cap)
