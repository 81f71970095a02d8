"""Keys and values of the tokens a decoder has read."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.engine.attention import Heads, View, attend

CHUNK = 256
KeysOrValues = Float[Tensor, "batch kv_heads length channels"]


@runtime_checkable
class LayerCache(Protocol):
    """Keys and values of one layer."""

    @property
    def bytes_per_position(self) -> int:
        """Bytes that a position of one sequence takes."""
        ...

    def reserve(self, positions: int, used: int) -> None:
        """Make room for `positions`, keeping the first `used`."""
        ...

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
        """Store the new keys and values after the past ones; what the queries mix of them all.

        Stored positions count as read after `Cache.advance`, so a forward that is interrupted
        leaves no trace.
        """
        ...


class Cache:
    """The caches of all layers, of sequences of equal length. Room grows by CHUNK positions.

    Memory: `bytes_per_token` a position and sequence, and while it grows one layer twice.
    """

    def __init__(self, layers: list[LayerCache]) -> None:
        self.length = 0
        self.layers = layers
        self._room = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token of one sequence takes in all layers, scales included."""
        return sum(layer.bytes_per_position for layer in self.layers)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in all."""
        if length <= self._room:
            return
        self._room = -(-length // CHUNK) * CHUNK
        for layer in self.layers:
            layer.reserve(self._room, self.length)

    def advance(self, count: int) -> None:
        """Count the positions that every layer has written."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.length = min(self.length, length)


class FloatLayer:
    """Keys and values as floats of the dtype of `room`, an empty [batch, kv heads, 0, channels].

    Where that is not the dtype of the queries, all of them are converted at every reading.
    """

    def __init__(self, room: KeysOrValues) -> None:
        self._keys = self._values = room

    @property
    def bytes_per_position(self) -> int:
        return 2 * self._keys.shape[1] * self._keys.shape[3] * self._keys.itemsize

    def reserve(self, positions: int, used: int) -> None:
        self._keys = _grown(self._keys, positions, used)
        self._values = _grown(self._values, positions, used)

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
        self._keys[:, :, view.past : end] = keys
        self._values[:, :, view.past : end] = values
        every_key, every_value = self._keys[:, :, :end], self._values[:, :, :end]
        return attend(
            query,
            every_key.to(query.dtype),
            every_value.to(query.dtype),
            view,
            scale=scale,
            cap=cap,
        )


def empty_room(
    batch: int, kv_heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
) -> KeysOrValues:
    """Keys or values of no position."""
    return torch.empty(batch, kv_heads, 0, head_dim, dtype=dtype, device=device)


def _grown(old: Tensor, positions: int, used: int) -> Tensor:
    new = old.new_empty(*old.shape[:2], positions, old.shape[3])
    new[:, :, :used] = old[:, :, :used]
    return new
