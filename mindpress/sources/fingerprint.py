"""Whether two things on disk are made from one model."""

from hashlib import sha256

import torch

from mindpress.sources.source import ModelSource

ROWS = 64


def model_fingerprint(source: ModelSource) -> str:
    """A hash of what quantizing and converting leave as it is: final norm, first embedding rows.

    They are hashed as what float16 and bfloat16 both leave of them, for a workspace may be in
    either. Peak memory: the embedding.
    """
    shape = source.shape
    widths = (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.vocab)
    digest = sha256(repr(widths).encode())
    for tensor in (source.final_norm(), source.embedding()[:ROWS]):
        digest.update(tensor.half().bfloat16().contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
