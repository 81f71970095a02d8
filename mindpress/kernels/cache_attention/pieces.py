"""Attention over a quantized cache, piece by piece: the cache is never expanded as a whole.

The softmax is accumulated over the pieces (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax", algorithm 3; Dao 2023, "FlashAttention-2", section 3.1). Scales are
taken out of the products: q . (s u + l) = s (q . u) + l sum(q), so that only codes become floats.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.formats.cache_codes import CacheTensor
from mindpress.kernels.cache_attention.scores import Scores

# Codes that are floats at a time, of keys or of values; no fewer positions than pay for a product.
BYTES_AT_ONCE = 2**22
FEWEST_POSITIONS = 64
# Rows of queries (of all heads and sequences) whose weights exist at a time.
QUERIES_AT_ONCE = 8192

Heads = Float[Tensor, "batch heads length channels"]
Rows = Float32[Tensor, "batch kv_heads rows channels"]
Weights = Float32[Tensor, "batch kv_heads rows positions"]
PerRow = Float32[Tensor, "batch kv_heads rows 1"]


@torch.no_grad()
def attend_codes(query: Heads, keys: CacheTensor, values: CacheTensor, scores: Scores) -> Heads:
    """softmax(scores) v over all positions of `keys` and `values`, in float32.

    Each kv head serves its group of query heads. Peak memory: the codes of a piece as floats, and
    about QUERIES_AT_ONCE rows of weights for as many positions.
    """
    past, tile = scores.past, max(1, QUERIES_AT_ONCE // (query.shape[0] * query.shape[1]))
    mixed = []
    for part in query.split(tile, dim=2):
        end = past + part.shape[2]
        here = replace(scores, past=past)
        mixed.append(_attend(part, keys.part(0, end), values.part(0, end), here))
        past = end
    return torch.cat(mixed, dim=2)


def _attend(query: Heads, keys: CacheTensor, values: CacheTensor, scores: Scores) -> Heads:
    batch, heads, length, channels = query.shape
    kv_heads, positions = keys.codes.shape[1:3]
    # The heads of a group are rows of one product, so that no key is expanded twice.
    rows = query.float().reshape(batch, kv_heads, heads // kv_heads * length, channels)
    state, rows = _Softmax(rows), rows * scores.scale
    step = max(FEWEST_POSITIONS, BYTES_AT_ONCE // (4 * batch * kv_heads * channels))
    for begin in range(scores.first, positions, step):
        end = min(begin + step, positions)
        weights = _weights(rows, keys.part(begin, end), scores.cap)
        seen = scores.visible(length, begin, end, query.device)
        if seen is not None:
            weights.unflatten(2, (-1, length)).masked_fill_(~seen, float("-inf"))
        state.add(weights, values.part(begin, end))
    return state.mixed().view(batch, heads, length, channels).to(query.dtype)


class _Softmax:
    """Weighted values so far, for the largest score so far."""

    def __init__(self, rows: Rows) -> None:
        # Not -inf: the difference to a masked score must stay a number.
        self._largest: PerRow = rows.new_full((*rows.shape[:3], 1), torch.finfo(rows.dtype).min)
        self._total: PerRow = torch.zeros_like(self._largest)
        self._sum: Rows = torch.zeros_like(rows)

    def add(self, weights: Weights, values: CacheTensor) -> None:
        """Take in the scores of more positions; overwrites them."""
        largest = torch.maximum(self._largest, weights.amax(-1, keepdim=True))
        shrunk = (self._largest - largest).exp_()
        weights = weights.sub_(largest).exp_()
        self._total = self._total * shrunk + weights.sum(-1, keepdim=True)
        self._sum = self._sum * shrunk + _mixed(weights, values)
        self._largest = largest

    def mixed(self) -> Rows:
        return self._sum / self._total


def _weights(rows: Rows, keys: CacheTensor, cap: float | None) -> Weights:
    """rows . k for every position."""
    if keys.fixed:
        constant = (rows * _low(keys)).sum(-1, keepdim=True)
        weights = _product(rows * keys.scale, keys).add_(constant)
    else:
        low = _low(keys).transpose(2, 3)
        weights = _product(rows, keys).mul_(keys.scale.float().transpose(2, 3))
        weights.addcmul_(rows.sum(-1, keepdim=True), low)
    return weights if cap is None else weights.div_(cap).tanh_().mul_(cap)


def _mixed(weights: Weights, values: CacheTensor) -> Rows:
    """Sum over positions of weight * v."""
    if values.fixed:
        total = weights.sum(-1, keepdim=True)
        return _sum_of_codes(weights, values) * values.scale + total * _low(values)
    lows = (weights @ _low(values)).expand(-1, -1, -1, 1)
    return _sum_of_codes(weights * values.scale.float().transpose(2, 3), values) + lows


def _product(rows: Rows, keys: CacheTensor) -> Weights:
    halves = keys.halves()
    parts = rows.chunk(len(halves), dim=-1)
    products = [part @ half.transpose(2, 3) for part, half in zip(parts, halves, strict=True)]
    return products[0] if len(products) == 1 else products[0].add_(products[1])


def _sum_of_codes(weights: Weights, values: CacheTensor) -> Rows:
    products = [weights @ half for half in values.halves()]
    return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


def _low(tensor: CacheTensor) -> Tensor:
    scale = tensor.scale.float()
    return -tensor.spec.middle * scale if tensor.low is None else tensor.low.float()
