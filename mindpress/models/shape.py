"""config.json -> ModelShape: the numbers of a model, checked, in one spelling."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mindpress.errors import InputError
from mindpress.models.description import Architecture, Biases
from mindpress.models.registry import describe

# A config that asks for more than this is damaged or hostile; nothing is allocated for it.
LARGEST_DIMENSION = 2**24
MOST_LAYERS = 1000
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length",
               "model_max_length", "max_sequence_length", "max_seq_length", "seq_len")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding. `parameters` is the raw scaling map (type, factor, ...) of the config."""

    theta: float
    kind: str = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def get(self, key: str, default: float) -> float:
        """A number of the scaling map."""
        value = self.parameters.get(key)
        return default if value is None else float(value)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Widths, counts and constants of a model. Sizes are in channels, lengths in tokens."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    max_length: int
    norm_eps: float
    rope: Rope
    dtype: str
    tied: bool
    activation: str = "silu"
    rotary_dim: int = 0
    biases: Biases = field(default_factory=Biases)
    windows: tuple[int | None, ...] = ()
    attention_cap: float | None = None
    logit_cap: float | None = None
    query_scale: float = 0.0

    @property
    def rows(self) -> dict[str, int]:
        """Output rows of each role."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"query": queries, "key": keys, "value": keys, "output": self.hidden,
                "gate": self.inner, "up": self.inner, "down": self.hidden}  # fmt: skip

    @property
    def columns(self) -> dict[str, int]:
        """Input columns of each role."""
        return {"query": self.hidden, "key": self.hidden, "value": self.hidden,
                "output": self.heads * self.head_dim,
                "gate": self.hidden, "up": self.hidden, "down": self.inner}  # fmt: skip

    def has_bias(self, role: str) -> bool:
        """Whether the linear of `role` has a bias."""
        if role in ("query", "key", "value"):
            return bool(self.biases.query_key_value)
        return bool(self.biases.output if role == "output" else self.biases.mlp)


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The description that fits a config.json; its `architectures[0]` decides."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InputError(
            "config.json: `architectures` names no model class",
            hint='add it, for example "architectures": ["LlamaForCausalLM"]',
        )
    return describe(names[0])


def read_shape(config: Mapping[str, Any], architecture: Architecture) -> ModelShape:
    """The shape that config.json (transformers 4 or 5 spelling) describes.

    Raises InputError naming the key and value when a number is missing, absurd or contradictory.
    """
    hidden = _integer(config, "hidden_size")
    heads = _integer(config, "num_attention_heads")
    kv_heads = _integer(config, "num_key_value_heads", heads)
    head_dim = _integer(config, "head_dim", hidden // heads)
    layers = _integer(config, "num_hidden_layers", most=MOST_LAYERS)
    if heads % kv_heads:
        raise InputError(f"config.json: {heads} heads are no multiple of {kv_heads} kv heads")
    rope = _rope(config)
    partial = _number(config.get("partial_rotary_factor") or rope.get("partial_rotary_factor", 1.0))
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=_integer(config, "intermediate_size"),
        vocab=_integer(config, "vocab_size"),
        max_length=_max_length(config),
        norm_eps=_number(config.get("rms_norm_eps", 1e-6)),
        rope=rope,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float16"),
        tied=bool(config.get("tie_word_embeddings", architecture.scales_embedding)),
        activation=str(config.get("hidden_activation") or config.get("hidden_act") or "silu"),
        rotary_dim=int(head_dim * partial),
        biases=_biases(config, architecture),
        windows=_windows(config, architecture, layers),
        attention_cap=config.get("attn_logit_softcapping"),
        logit_cap=config.get("final_logit_softcapping"),
        query_scale=_number(config.get("query_pre_attn_scalar") or head_dim) ** -0.5,
    )


def _integer(
    config: Mapping[str, Any], key: str, default: int | None = None, most: int = LARGEST_DIMENSION
) -> int:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise InputError(f"config.json: `{key}` is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise InputError(f"config.json: `{key}` is {value!r}, expected a number from 1 to {most}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise InputError(f"config.json: {value!r} stands where a positive number is expected")
    return float(value)


def _max_length(config: Mapping[str, Any]) -> int:
    lengths = [config[key] for key in LENGTH_KEYS if isinstance(config.get(key), int)]
    return max(1, min(lengths, default=2048))


def _rope(config: Mapping[str, Any]) -> Rope:
    """Both spellings: `rope_theta` + `rope_scaling` (4) and `rope_parameters` (5)."""
    raw = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(raw, dict):
        raise InputError(f"config.json: rope parameters are {raw!r}, expected a map")
    parameters = cast(dict[str, Any], raw)
    theta = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = str(parameters.get("rope_type") or parameters.get("type") or "default")
    return Rope(_number(theta), kind, parameters)


def _biases(config: Mapping[str, Any], architecture: Architecture) -> Biases:
    def resolved(rule: bool | str) -> bool:
        return bool(config.get(rule, False)) if isinstance(rule, str) else rule

    rules = architecture.biases
    return Biases(resolved(rules.query_key_value), resolved(rules.output), resolved(rules.mlp))


def _windows(
    config: Mapping[str, Any], architecture: Architecture, layers: int
) -> tuple[int | None, ...]:
    """Sliding window of each layer in tokens, None where attention is full."""
    window = config.get("sliding_window")
    if not isinstance(window, int) or architecture.window == "never":
        return (None,) * layers
    if architecture.window == "use_sliding_window" and not config.get("use_sliding_window"):
        return (None,) * layers
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers and architecture.window != "all":
        slides = [kind == "sliding_attention" for kind in kinds]
    elif architecture.window == "alternate":
        slides = [index % 2 == 0 for index in range(layers)]
    elif architecture.window == "use_sliding_window":
        slides = [index >= config.get("max_window_layers", 28) for index in range(layers)]
    else:
        slides = [True] * layers
    return tuple(window if slide else None for slide in slides)
