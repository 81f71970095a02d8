"""config.json -> ModelShape: the numbers of a model, checked, in one spelling."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mindpress.errors import InputError
from mindpress.models.description import Architecture, Biases, Role
from mindpress.models.registry import describe
from mindpress.models.values import flag, integer, is_number, number, optional_number, word, wrong

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
        if value is not None and not is_number(value):
            raise wrong(key, value, "a finite number")
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
    def rows(self) -> dict[Role, int]:
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
    config = {**architecture.defaults, **config}
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    kv_heads = integer(config, "num_key_value_heads", heads)
    head_dim = integer(config, "head_dim", hidden // heads)
    layers = integer(config, "num_hidden_layers", most=MOST_LAYERS)
    if heads % kv_heads:
        raise InputError(f"config.json: {heads} heads are no multiple of {kv_heads} kv heads")
    rope = _rope(config)
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=integer(config, "intermediate_size"),
        vocab=integer(config, "vocab_size"),
        max_length=_max_length(config),
        norm_eps=number(config, "rms_norm_eps", 1e-6),
        rope=rope,
        dtype=word(config, "dtype", word(config, "torch_dtype", "float16")),
        tied=flag(config, "tie_word_embeddings"),
        activation=word(config, "hidden_activation", word(config, "hidden_act", "silu")),
        rotary_dim=_rotary_dim(config, rope, head_dim),
        biases=_biases(config, architecture),
        windows=_windows(config, architecture, layers),
        attention_cap=optional_number(config, "attn_logit_softcapping"),
        logit_cap=optional_number(config, "final_logit_softcapping"),
        query_scale=number(config, "query_pre_attn_scalar", float(head_dim)) ** -0.5,
    )


def _max_length(config: Mapping[str, Any]) -> int:
    """The shortest of the lengths that are whole numbers; some programs write 1e30 for none."""
    whole = [key for key in LENGTH_KEYS if isinstance(config.get(key), int)]
    return min((integer(config, key) for key in whole), default=2048)


def _rope(config: Mapping[str, Any]) -> Rope:
    """Both spellings: `rope_theta` + `rope_scaling` (4) and `rope_parameters` (5)."""
    raw = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(raw, dict) or not all(map(_rope_value, raw.values())):
        raise wrong("rope_scaling", raw, "a map of finite numbers")
    parameters = dict(cast(dict[str, Any], raw))
    theta = number(parameters, "rope_theta", number(config, "rope_theta", 10000.0))
    kind = word(parameters, "rope_type", word(parameters, "type", "default"))
    if "short_factor" in parameters:
        kind = "longrope"  # Phi-3 called it "su" and "yarn" at first
    if kind != "default" and config.get("original_max_position_embeddings"):
        # Phi-3 has its trained length outside the map, where it wins.
        trained = integer(config, "original_max_position_embeddings")
        parameters["original_max_position_embeddings"] = trained
    return Rope(theta, kind, parameters)


def _rope_value(value: object) -> bool:
    """Finite numbers, lists of them (longrope), words and switches; no map per layer type."""
    if isinstance(value, list):
        return all(map(is_number, value))
    return value is None or isinstance(value, str | bool) or is_number(value)


def _rotary_dim(config: Mapping[str, Any], rope: Rope, head_dim: int) -> int:
    """Channels of a head that are rotated."""
    share = number(config, "partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
    if share > 1:
        raise wrong("partial_rotary_factor", share, "a share up to 1")
    return int(head_dim * share)


def _biases(config: Mapping[str, Any], architecture: Architecture) -> Biases:
    def resolved(rule: bool | str) -> bool:
        return flag(config, rule) if isinstance(rule, str) else rule

    rules = architecture.biases
    return Biases(resolved(rules.query_key_value), resolved(rules.output), resolved(rules.mlp))


def _windows(
    config: Mapping[str, Any], architecture: Architecture, layers: int
) -> tuple[int | None, ...]:
    """Sliding window of each layer in tokens, None where attention is full."""
    if config.get("sliding_window") is None or architecture.window == "never":
        return (None,) * layers
    if architecture.window == "use_sliding_window" and not flag(config, "use_sliding_window"):
        return (None,) * layers
    window = integer(config, "sliding_window")
    kinds = _layer_types(config, layers)
    slides = [_slides(config, architecture, index, kinds) for index in range(layers)]
    return tuple(window if slide else None for slide in slides)


def _layer_types(config: Mapping[str, Any], layers: int) -> list[str] | None:
    kinds = config.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and len(kinds) == layers):
        raise wrong("layer_types", kinds, f"a list of {layers}")
    return kinds


def _slides(
    config: Mapping[str, Any], architecture: Architecture, index: int, kinds: list[str] | None
) -> bool:
    if architecture.window == "all":
        return True
    if kinds is not None:
        return kinds[index] == "sliding_attention"
    if architecture.window == "alternate":
        return index % 2 == 0
    first = integer(config, "max_window_layers") if config.get("max_window_layers") else 0
    return index >= first
