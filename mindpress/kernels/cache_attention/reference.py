"""Attention over a quantized cache, the plain way: everything is dequantized first."""

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.formats.cache_codes import CacheTensor
from mindpress.kernels.cache_attention.scores import Scores

Heads = Float[Tensor, "batch heads length channels"]


def attend_reference(query: Heads, keys: CacheTensor, values: CacheTensor, scores: Scores) -> Heads:
    """softmax(scores) v over all positions of `keys` and `values`, in float32.

    Each kv head serves its group of query heads. Memory: the cache in float32.
    """
    group = query.shape[1] // keys.codes.shape[1]
    k = keys.dequantized().repeat_interleave(group, 1)
    v = values.dequantized().repeat_interleave(group, 1)
    weights = (query.float() @ k.transpose(2, 3)) * scores.scale
    if scores.cap is not None:
        weights = torch.tanh(weights / scores.cap) * scores.cap
    seen = scores.visible(query.shape[2], 0, k.shape[2], query.device)
    if seen is not None:
        weights = weights.masked_fill(~seen, float("-inf"))
    return (weights.softmax(-1) @ v).to(query.dtype)
