"""Which tensors a checkpoint must hold, and their shapes, derived from the description."""

from collections.abc import Iterator

from mindpress.models.description import Architecture, Linear
from mindpress.models.shape import ModelShape

Shapes = dict[str, tuple[int, ...]]

# Written by some exporters, computed by every runtime.
IGNORED_ENDINGS = ("rotary_emb.inv_freq", "masked_bias", "rotary_emb.cos_cached",
                   "rotary_emb.sin_cached")  # fmt: skip


def linear_shape(linear: Linear, shape: ModelShape) -> tuple[int, int]:
    """(output rows, input columns) of a linear as Hugging Face stores its weight."""
    return sum(shape.rows[role] for role in linear.roles), shape.columns[linear.roles[0]]


def norm_width(name: str, architecture: Architecture, shape: ModelShape) -> int:
    """Channels of a norm of the block."""
    per_head = name in (architecture.block.query_norm, architecture.block.key_norm)
    return shape.head_dim if per_head else shape.hidden


def block_tensors(architecture: Architecture, shape: ModelShape) -> Shapes:
    """Tensors of one decoder block, named relative to it."""
    shapes: Shapes = {}
    for linear in architecture.block.linears:
        shapes[f"{linear.name}.weight"] = linear_shape(linear, shape)
        if shape.has_bias(linear.roles[0]):
            shapes[f"{linear.name}.bias"] = (linear_shape(linear, shape)[0],)
    for norm in architecture.block.norms:
        shapes[f"{norm}.weight"] = (norm_width(norm, architecture, shape),)
    return shapes


def outer_tensors(architecture: Architecture, shape: ModelShape) -> Shapes:
    """Embedding, final norm and, unless it is tied, the head."""
    shapes: Shapes = {
        f"{architecture.embedding}.weight": (shape.vocab, shape.hidden),
        f"{architecture.final_norm}.weight": (shape.hidden,),
    }
    if not shape.tied:
        shapes[f"{architecture.head}.weight"] = (shape.vocab, shape.hidden)
    return shapes


def all_tensors(architecture: Architecture, shape: ModelShape) -> Shapes:
    """Every tensor of the unquantized checkpoint."""
    return dict(_all(architecture, shape))


def _all(architecture: Architecture, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from outer_tensors(architecture, shape).items()
    block = block_tensors(architecture, shape)
    for index in range(shape.layers):
        for name, size in block.items():
            yield f"{architecture.layer(index)}.{name}", size
