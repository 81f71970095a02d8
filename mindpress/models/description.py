"""The fields of a description: which tensor plays which part in a decoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["query", "key", "value", "output", "gate", "up", "down"]


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear of the checkpoint and the roles whose output rows it stacks, in file order.

    `grouped` means that query, key and value are interleaved per key/value head
    (heads/kv_heads query heads, one key head, one value head, and again), as in InternLM2's wqkv.
    """

    name: str
    roles: tuple[Role, ...]
    grouped: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Names inside one decoder block, relative to it.

    The linears of one `*_inputs` tuple read the same tensor, so they share a smoothing scale.
    The `*_output_norm`s stand after a sublayer and before the residual add (Gemma 2).
    """

    attention_norm: str
    attention_inputs: tuple[Linear, ...]
    attention_output: Linear
    mlp_norm: str
    mlp_inputs: tuple[Linear, ...]
    mlp_output: Linear
    query_norm: str | None = None
    key_norm: str | None = None
    attention_output_norm: str | None = None
    mlp_output_norm: str | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Every linear to quantize, in the order data passes through them."""
        return (*self.attention_inputs, self.attention_output, *self.mlp_inputs, self.mlp_output)

    @property
    def norms(self) -> tuple[str, ...]:
        """Every norm of the block that exists in this family."""
        names = (self.attention_norm, self.mlp_norm, self.query_norm, self.key_norm,
                 self.attention_output_norm, self.mlp_output_norm)  # fmt: skip
        return tuple(name for name in names if name)

    def linear_of(self, role: Role) -> Linear:
        """The linear that holds the rows of `role`."""
        return next(linear for linear in self.linears if role in linear.roles)


@dataclass(frozen=True, slots=True)
class Biases:
    """Where biases are: always (True), never (False), or when this key of config.json is true."""

    query_key_value: bool | str = False
    output: bool | str = False
    mlp: bool | str = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Hugging Face model class, where its parts are, and how it differs from Llama.

    `runs_as` is the transformers class that computes it when the family's own code is remote;
    None means its own class. `norm_offset` is added to stored norm weights (1.0 in Gemma).
    `window` says which layers attend through a sliding window when the config has one: all, the
    ones `layer_types` names, or even-numbered ones. `defaults` is what its transformers config
    assumes for keys that config.json leaves out. `turbomind_obstacle` is why TurboMind workspaces
    cannot hold the family (None: they can).
    """

    hf_class: str
    model_type: str
    embedding: str
    blocks: str
    block: Block
    final_norm: str
    head: str
    biases: Biases = Biases()
    runs_as: str | None = None
    norm_offset: float = 0.0
    scales_embedding: bool = False
    window: Literal["never", "all", "use_sliding_window", "alternate"] = "never"
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    turbomind_obstacle: str | None = None

    def layer(self, index: int) -> str:
        """Prefix of a block's tensors, for example `model.layers.3`."""
        return f"{self.blocks}.{index}"
