"""What a block would put into its cache: keys after the rotary embedding, and values."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.calib.statistics import Extremes

PerToken = Float[Tensor, "samples kv_heads tokens channels"]
SAMPLES_AND_TOKENS = (0, 2)


@runtime_checkable
class KeyValues(Protocol):
    """The one method that the attention of transformers 5 asks of a cache."""

    def update(
        self, key_states: PerToken, value_states: PerToken, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[PerToken, PerToken]:
        """Take in the keys and values of a batch; those to attend to."""
        ...


class KeyValueStatistics:
    """min, max and absmax of keys and values, per head and channel, over all tokens.

    Stands in a cache's place in one block and hands on what it is given, so that the block
    computes as it does without a cache.
    """

    def __init__(
        self, kv_heads: int, channels: int, device: torch.device, *, clamp: bool = False
    ) -> None:
        size = (kv_heads, channels)
        self.keys = Extremes(size, device, clamp=clamp)
        self.values = Extremes(size, device, clamp=clamp)

    def update(
        self, key_states: PerToken, value_states: PerToken, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[PerToken, PerToken]:
        """Count them, and give them back as they are."""
        del layer_idx  # there is one block
        self.keys.add(key_states, SAMPLES_AND_TOKENS)
        self.values.add(value_states, SAMPLES_AND_TOKENS)
        return key_states, value_states

    def join(self, other: "KeyValueStatistics") -> None:
        """Take in what another has seen."""
        self.keys.join(other.keys)
        self.values.join(other.values)

    def tensors(self) -> dict[str, Tensor]:
        """`keys.min`, `keys.max`, `keys.absmax` and the same of `values`, each of
        [kv_heads, channels].
        """
        named = {"keys": self.keys, "values": self.values}
        return {f"{part}.{name}": t for part, x in named.items() for name, t in x.tensors().items()}
