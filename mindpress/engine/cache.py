"""Keys and values of the tokens a decoder has read."""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 256
KeysOrValues = Float[Tensor, "batch kv_heads length channels"]
Stored = Float[Tensor, "batch kv_heads positions channels"]


class Cache:
    """Contiguous keys and values per layer; room for them grows by CHUNK positions.

    Memory: 2 * layers * batch * kv_heads * head_dim * capacity elements, and while it grows one
    layer twice.
    """

    def __init__(self, layers: int, room: KeysOrValues) -> None:
        """`room` is an empty [batch, kv heads, 0, head_dim] of the dtype and device to use."""
        self.length = 0
        self._keys = [room] * layers
        self._values = [room] * layers

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in all."""
        if length <= self._keys[0].shape[2]:
            return
        capacity = -(-length // CHUNK) * CHUNK
        for stored in (self._keys, self._values):
            for layer, old in enumerate(stored):
                new = old.new_empty(old.shape[0], old.shape[1], capacity, old.shape[3])
                new[:, :, : self.length] = old[:, :, : self.length]
                stored[layer] = new

    def write(self, layer: int, keys: KeysOrValues, values: KeysOrValues) -> tuple[Stored, Stored]:
        """Put the new positions after `length`; returns views of all positions of the layer.

        They count as read after `advance`, so a forward that is interrupted leaves no trace.
        """
        end = self.length + keys.shape[2]
        self._keys[layer][:, :, self.length : end] = keys
        self._values[layer][:, :, self.length : end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def advance(self, count: int) -> None:
        """Count the positions that every layer has written."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.length = min(self.length, length)


def empty_room(
    batch: int, kv_heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
) -> KeysOrValues:
    """Keys or values of no position."""
    return torch.empty(batch, kv_heads, 0, head_dim, dtype=dtype, device=device)
