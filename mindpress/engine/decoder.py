"""One decoder for every family: what differs between them is in the description and the shape."""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from mindpress.engine.attention import View, attend, view_of
from mindpress.engine.cache import Cache
from mindpress.engine.cache_plan import CachePlan
from mindpress.engine.linear import Linear
from mindpress.engine.rotary import Rotary, Table, rotate
from mindpress.models.shape import ModelShape

Hidden = Float[Tensor, "batch length hidden"]
Logits = Float[Tensor, "... vocab"]
Activation = Callable[[Tensor], Tensor]


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
    head_norm: Float[Tensor, "heads 1 channels"] | None
    attention_output_norm: Float[Tensor, " hidden"] | None
    mlp_output_norm: Float[Tensor, " hidden"] | None
    window: int | None


@dataclass(frozen=True, slots=True)
class Outer:
    """What stands before and after the blocks. A tied head is the embedding's own tensor."""

    embedding: Float[Tensor, "vocab hidden"]
    embedding_scale: float
    final_norm: Float[Tensor, " hidden"]
    head: Float[Tensor, "vocab hidden"]


class Decoder:
    """A language model in memory. All its methods run without gradients."""

    def __init__(
        self,
        shape: ModelShape,
        layers: list[Layer],
        outer: Outer,
        rotary: Rotary,
        activation: Activation,
        cache_plan: CachePlan,
    ) -> None:
        self.shape, self.rotary, self.cache_plan = shape, rotary, cache_plan
        self._layers, self._outer, self._activation = layers, outer, activation
        self.dtype, self.device = outer.embedding.dtype, outer.embedding.device

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in memory."""
        held = [linear.nbytes for linear in self._linears()]
        held.append(self._outer.embedding.nbytes)
        if self._outer.head is not self._outer.embedding:
            held.append(self._outer.head.nbytes)
        return sum(held)

    @property
    def weights(self) -> str:
        """How the linears are kept and multiplied, for people: `4 bits, exact`, `float32`."""
        dense = str(self.dtype).removeprefix("torch.")
        return ", ".join(sorted({linear.describe() or dense for linear in self._linears()}))

    def _linears(self) -> Iterator[Linear]:
        for layer in self._layers:
            yield from (layer.query_key_value, layer.attention_output, layer.gate_up, layer.down)

    def new_cache(self, batch: int = 1) -> Cache:
        """An empty cache for `batch` sequences of equal length."""
        return self.cache_plan.new_cache(self.shape, batch, self.dtype, self.device)

    def with_cache(self, plan: CachePlan) -> "Decoder":
        """The same weights, with another kind of cache."""
        other = copy(self)
        other.cache_plan = plan
        return other

    @torch.inference_mode()
    def hidden(
        self, ids: Int64[Tensor, "batch length"], cache: Cache | None = None, horizon: int = 0
    ) -> Hidden:
        """Hidden states after the final norm. The tokens follow those in `cache` and join them.

        `horizon` is how long the text is of which these tokens are a part (default: it ends here);
        rotary kinds that depend on it need it when a text is read in pieces.
        """
        past, length = (cache.length if cache else 0), ids.shape[1]
        horizon = max(horizon, past + length)
        if cache:
            cache.reserve(horizon)
        tables = self.rotary.tables(past, length, horizon)
        views = {
            window: view_of(past, length, window, self.device)
            for window in {layer.window for layer in self._layers}
        }
        x = functional.embedding(ids.to(self.device), self._outer.embedding)
        if self._outer.embedding_scale != 1:
            x = x * self._outer.embedding_scale
        for index, layer in enumerate(self._layers):
            mixed = self._attention(x, index, cache, tables, views[layer.window])
            x = x + self._normed(mixed, layer.attention_output_norm)
            x = x + self._normed(self._mlp(x, layer), layer.mlp_output_norm)
        if cache:
            cache.advance(length)
        return self._normed(x, self._outer.final_norm)

    @torch.inference_mode()
    def logits(self, hidden: Float[Tensor, "... hidden"]) -> Logits:
        """Scores of every token as the next one, float32."""
        logits = functional.linear(hidden, self._outer.head)
        if self.shape.logit_cap is not None:
            logits = torch.tanh(logits / self.shape.logit_cap) * self.shape.logit_cap
        return logits.float()

    def _attention(
        self, x: Hidden, index: int, cache: Cache | None, tables: tuple[Table, Table], view: View
    ) -> Hidden:
        shape, layer = self.shape, self._layers[index]
        fused = layer.query_key_value(self._normed(x, layer.attention_norm))
        heads = fused.unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
        turned, values = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=1)
        if layer.head_norm is not None:
            turned = rms_norm(turned, None, shape.norm_eps, layer.head_norm)
        query, keys = rotate(turned, *tables).split([shape.heads, shape.kv_heads], dim=1)
        attention = attend if cache is None else cache.layers[index].attend
        scale, cap = shape.query_scale, shape.attention_cap
        mixed = attention(query, keys, values, view, scale=scale, cap=cap)
        return layer.attention_output(mixed.transpose(1, 2).flatten(2))

    def _mlp(self, x: Hidden, layer: Layer) -> Hidden:
        gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, dim=-1)
        return layer.down(self._activation(gate) * up)

    def _normed(self, x: Hidden, weight: Float[Tensor, " hidden"] | None) -> Hidden:
        return x if weight is None else rms_norm(x, weight, self.shape.norm_eps)


def rms_norm(
    x: Float[Tensor, "... channels"],
    weight: Float[Tensor, " channels"] | None,
    eps: float,
    weights: Float[Tensor, "rows 1 channels"] | None = None,
) -> Float[Tensor, "... channels"]:
    """x / sqrt(mean(x^2) + eps) * weight in float32, rounded once to the dtype of x.

    `weights` has one for each row of heads. Source: Zhang and Sennrich 2019, equation 4.
    """
    normed = functional.rms_norm(x.float(), (x.shape[-1],), weight, eps)
    return (normed if weights is None else normed * weights).to(x.dtype)
