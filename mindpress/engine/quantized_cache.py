"""Keys and values of a layer in 8 or 4 bits."""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.engine.attention import Heads, View
from mindpress.engine.cache import KeysOrValues
from mindpress.formats.cache_codes import CacheTensor, bytes_per_head
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention import Scores, attend_codes
from mindpress.kernels.cache_write import write_tokens

PerHead = Float[Tensor, "kv_heads channels"]


class QuantizedLayer:
    """Written as codes when they are computed, and never expanded as a whole again."""

    def __init__(self, keys: CacheTensor, values: CacheTensor) -> None:
        """`keys` and `values` have no position yet."""
        self._keys, self._values = keys, values

    @property
    def bytes_per_position(self) -> int:
        return self._keys.bytes_per_position + self._values.bytes_per_position

    def reserve(self, positions: int, used: int) -> None:
        self._keys = self._keys.with_room(positions, used)
        self._values = self._values.with_room(positions, used)

    def attend(
        self,
        query: Heads,
        keys: KeysOrValues,
        values: KeysOrValues,
        view: View,
        *,
        scale: float,
        cap: float | None,
    ) -> Heads:
        end = view.past + keys.shape[2]
        write_tokens(self._keys, view.past, keys)
        write_tokens(self._values, view.past, values)
        scores = Scores(scale, view.past, view.window, cap)
        return attend_codes(query, self._keys.part(0, end), self._values.part(0, end), scores)


def fixed_codes(
    batch: int, channels: int, spec: CacheSpec, scale: PerHead, zero: PerHead
) -> CacheTensor:
    """An empty CacheTensor of calibrated scales; `channels` of the scales may be 1."""
    codes = _no_codes(batch, scale.shape[0], channels, spec, scale.device)
    low = zero - spec.middle * scale
    return CacheTensor(spec, codes, scale.unsqueeze(1), low.unsqueeze(1), fixed=True)


def online_codes(
    batch: int, kv_heads: int, channels: int, spec: CacheSpec, device: torch.device
) -> CacheTensor:
    """An empty CacheTensor whose scales belong to a token and head."""
    codes = _no_codes(batch, kv_heads, channels, spec, device)
    scale = torch.empty(batch, kv_heads, 0, 1, dtype=torch.float16, device=device)
    low = None if spec.symmetric else scale.clone()
    return CacheTensor(spec, codes, scale, low, fixed=False)


def _no_codes(
    batch: int, kv_heads: int, channels: int, spec: CacheSpec, device: torch.device
) -> Tensor:
    width = bytes_per_head(channels, spec.bits)
    return torch.empty(batch, kv_heads, 0, width, dtype=torch.uint8, device=device)
