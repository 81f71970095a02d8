"""What a model passes to its blocks beside the hidden states: masks, rotary positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Hidden = Float[Tensor, "samples tokens hidden"]


@dataclass(frozen=True, slots=True)
class Call:
    """What the model passes to one of its blocks beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _Stub(nn.Module):
    """Stands in a block's place, hands its input on and keeps what else it was given."""

    def __init__(self, real: nn.Module, calls: list[Call]) -> None:
        super().__init__()
        self.__dict__["_real"] = real  # not a submodule: it must not be found by the model
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_real"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._calls.append(Call(args, kwargs))
        return hidden_states


def record_calls(decoder: Any, hidden: Hidden) -> list[Call]:
    """One for every block: the decoder's forward is run once with stubs in their place."""
    calls: list[Call] = []
    layers, norm = decoder.layers, decoder.norm
    decoder.layers = nn.ModuleList(_Stub(layer, calls) for layer in layers)
    decoder.norm = nn.Identity()
    try:
        with torch.no_grad():
            decoder(inputs_embeds=hidden, use_cache=False)
    finally:
        decoder.layers, decoder.norm = layers, norm
    return calls
