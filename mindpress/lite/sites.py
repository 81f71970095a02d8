"""The four places of a block where linears read one tensor, and what produces that tensor."""

from dataclasses import dataclass

from mindpress.models.description import Block, Linear, Role


@dataclass(frozen=True, slots=True)
class Site:
    """Linears that read the same input, so that they share a smoothing scale.

    The inverse of the scale goes into `norm`, or into the output rows of `producer`. `residual` is
    the module that is fed what the output is added to; None where it is not added as it is.
    """

    name: str
    linears: tuple[Linear, ...]
    norm: str | None = None
    producer: Role | None = None
    residual: str | None = None


def sites_of(block: Block) -> tuple[Site, ...]:
    """Norm to query/key/value, value to output, norm to gate/up, up to down."""
    attention = None if block.attention_output_norm else block.attention_norm
    mlp = None if block.mlp_output_norm else block.mlp_norm
    return (
        Site("attention inputs", block.attention_inputs, norm=block.attention_norm),
        Site("attention output", (block.attention_output,), producer="value", residual=attention),
        Site("mlp inputs", block.mlp_inputs, norm=block.mlp_norm),
        Site("mlp output", (block.mlp_output,), producer="up", residual=mlp),
    )
