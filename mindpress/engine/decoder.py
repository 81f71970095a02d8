"""One decoder for every family: what differs between them is in the description and the shape."""

from copy import copy

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from mindpress.engine.cache import Cache
from mindpress.engine.cache_plan import CachePlan
from mindpress.engine.contiguous import ContiguousMixing
from mindpress.engine.glue import Glue
from mindpress.engine.layer import Mixing, Weights
from mindpress.engine.linear import Linear
from mindpress.engine.rotary import Rotary
from mindpress.kernels.dispatch import Kernels
from mindpress.models.shape import ModelShape

Hidden = Float[Tensor, "*tokens hidden"]
Logits = Float[Tensor, "*tokens vocab"]


class Decoder:
    """A language model in memory. All its methods run without gradients."""

    def __init__(
        self,
        shape: ModelShape,
        weights: Weights,
        rotary: Rotary,
        glue: Glue,
        cache_plan: CachePlan,
        kernels: Kernels,
    ) -> None:
        self.shape, self.rotary, self.cache_plan, self.kernels = shape, rotary, cache_plan, kernels
        self.layers, self._outer, self._glue = weights.layers, weights.outer, glue
        self.dtype, self.device = weights.outer.dtype, weights.outer.embedding.device

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in memory."""
        held = [linear.nbytes for linear in self.linears]
        held.append(self._outer.embedding.nbytes)
        head = self._outer.head
        if head.weight is not self._outer.embedding:
            held.append(head.nbytes)
        return sum(held)

    @property
    def weights(self) -> str:
        """How the linears are kept and multiplied, for people: `4 bits, exact`, `float32`."""
        dense = str(self.dtype).removeprefix("torch.")
        return ", ".join(sorted({linear.describe() or dense for linear in self.linears}))

    @property
    def linears(self) -> list[Linear]:
        """Those of all blocks."""
        return [
            linear
            for layer in self.layers
            for linear in (layer.query_key_value, layer.attention_output, layer.gate_up, layer.down)
        ]

    @property
    def final_norm(self) -> Float[Tensor, " hidden"]:
        """The weight of the last norm."""
        return self._outer.final_norm

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
    ) -> Float[Tensor, "batch length hidden"]:
        """Hidden states after the final norm. The tokens follow those in `cache` and join them.

        `horizon` is how long the text is of which these tokens are a part (default: it ends here);
        rotary kinds that depend on it need it when a text is read in pieces.
        """
        past, length = (cache.length if cache else 0), ids.shape[1]
        horizon = max(horizon, past + length)
        if cache:
            cache.reserve(horizon)
        tables = self.rotary.tables(past, length, horizon)
        hidden = self.forward(ids, ContiguousMixing(self.shape, cache, tables))
        if cache:
            cache.advance(length)
        return hidden

    @torch.inference_mode()
    def forward(self, ids: Int64[Tensor, "*tokens"], mixing: Mixing) -> Hidden:
        """Hidden states after the final norm, of tokens in any arrangement `mixing` knows."""
        eps, glue, x = self.shape.norm_eps, self._glue, self.embed(ids)
        normed = glue.norm(x, self.layers[0].attention_norm, eps)
        following = [layer.attention_norm for layer in self.layers[1:]] + [self._outer.final_norm]
        for index, layer in enumerate(self.layers):
            mixed = layer.attention_output(mixing(index, layer, layer.query_key_value(normed)))
            mixed = self._normed(mixed, layer.attention_output_norm)
            x, normed = glue.add_norm(x, mixed, layer.mlp_norm, eps)
            out = layer.down(glue.gate(layer.gate_up(normed)))
            out = self._normed(out, layer.mlp_output_norm)
            x, normed = glue.add_norm(x, out, following[index], eps)
        return normed

    @torch.inference_mode()
    def embed(self, ids: Int64[Tensor, "*tokens"]) -> Hidden:
        """What the first block reads."""
        x = functional.embedding(ids.to(self.device), self._outer.embedding).to(self.dtype)
        return x if self._outer.embedding_scale == 1 else x * self._outer.embedding_scale

    @torch.inference_mode()
    def logits(self, hidden: Float[Tensor, "*tokens hidden"]) -> Logits:
        """Scores of every token as the next one, float32."""
        logits = self._outer.head(hidden)
        if self.shape.logit_cap is not None:
            logits = torch.tanh(logits / self.shape.logit_cap) * self.shape.logit_cap
        return logits.float()

    def _normed(self, x: Hidden, weight: Float[Tensor, " hidden"] | None) -> Hidden:
        return x if weight is None else self._glue.norm(x, weight, self.shape.norm_eps)
