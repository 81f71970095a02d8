"""What a decoder is made of."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.engine.linear import Head, Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder block. Norm weights are float32, their family's offset added.

    `head_norm` has a row per query head and per key head.
    """

    attention_norm: Float[Tensor, " hidden"]
    query_key_value: Linear
    attention_output: Linear
    mlp_norm: Float[Tensor, " hidden"]
    gate_up: Linear
    down: Linear
    head_norm: Float[Tensor, "heads channels"] | None
    attention_output_norm: Float[Tensor, " hidden"] | None
    mlp_output_norm: Float[Tensor, " hidden"] | None
    window: int | None


@dataclass(frozen=True, slots=True)
class Outer:
    """What stands before and after the blocks, which compute in `dtype`. A tied head shares the
    embedding's tensor, unless it is in int8 codes."""

    dtype: torch.dtype
    embedding: Float[Tensor, "vocab hidden"]
    embedding_scale: float
    final_norm: Float[Tensor, " hidden"]
    head: Head


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a decoder."""

    layers: list[Layer]
    outer: Outer


@runtime_checkable
class Mixing(Protocol):
    """What the tokens of a forward take from one another and from those before them."""

    def __call__(
        self, index: int, layer: Layer, fused: Float[Tensor, "*tokens channels"]
    ) -> Float[Tensor, "*tokens mixed"]:
        """Queries, keys and values of a layer, as its projection gives them -> what they mix."""
        ...
