"""Whether ranges of keys and values were measured on the model that they are to serve."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight
from mindpress.models.description import Role
from mindpress.sources.source import ModelSource

# Of natural logarithms: rounding to 4 bits moves them by less than 0.02, scales that smoothing
# moves from the values into the next linear by more. Of the embedding: in units of its RMS.
TOLERANCE = 0.05
TINY = 1e-12
SAMPLED = 8
FARTHEST = 4.0  # of the RMS; bfloat16 rounds larger values by too much to tell
ROLES: tuple[Role, ...] = ("key", "value")


def cache_signature(source: ModelSource) -> str:
    """Sizes, some of the embedding, and how large the weights are that make keys and values.

    One line of text. Of every layer and kv head the mean and the spread over channels of log RMS of
    the rows of W diag(norm), which smoothing of the norm leaves as it is. Compare with
    `same_cache`. Reads the embedding and the weights of keys and values; peak memory: the
    embedding, or those of one layer in float32.
    """
    shape = source.shape
    sizes = (shape.layers, shape.kv_heads, shape.head_dim, shape.hidden, shape.vocab)
    parts = [_embedding(source), *(_layer(source, index) for index in range(shape.layers))]
    packed = torch.cat([part.flatten() for part in parts]).to(torch.float16).numpy().tobytes()
    return f"{'x'.join(map(str, sizes))}:{b64encode(packed).decode()}"


def same_cache(one: str, other: str) -> bool:
    """Whether two signatures are of models with the same keys and values, but for rounding."""
    (sizes, ours), (others, theirs) = _unpacked(one), _unpacked(other)
    if sizes != others or ours.shape != theirs.shape or not len(ours):
        return False
    return bool((np.abs(ours - theirs) <= TOLERANCE).all())


def _embedding(source: ModelSource) -> Float32[Tensor, "rows columns"]:
    """Some values, those of rows far apart: the first ones may be of tokens that nobody trained."""
    table = source.embedding()
    rows = torch.linspace(0, len(table) - 1, SAMPLED).long()
    values = table[rows].float()
    scale = values.square().mean().sqrt().clamp(min=TINY)
    return (values[:, :SAMPLED] / scale).clamp(-FARTHEST, FARTHEST)


def _layer(source: ModelSource, index: int) -> Float32[Tensor, "roles kv_heads 2"]:
    shape, linears = source.shape, source.linears(index)
    gain = source.norms(index)["attention_norm"].float() + source.architecture.norm_offset
    found = []
    for role in ROLES:
        rows = (_dense(linears[role].weight) * gain).square_().mean(1).clamp(min=TINY).log() / 2
        heads = rows.view(shape.kv_heads, shape.head_dim)
        found.append(torch.stack((heads.mean(1), heads.std(1, correction=0)), dim=1))
    return torch.stack(found)


def _dense(weight: Tensor | QuantizedWeight) -> Float[Tensor, "rows columns"]:
    if isinstance(weight, QuantizedWeight):
        return weight.dequantize(torch.float32)
    return weight.float()


def _unpacked(signature: str) -> tuple[str, np.ndarray]:
    sizes, _, packed = signature.partition(":")
    try:
        data = b64decode(packed, validate=True)
    except (NotBase64, ValueError):
        data = b""
    return sizes, np.frombuffer(data[: len(data) // 2 * 2], dtype=np.float16).astype(np.float32)
