"""config.ini and config.yaml of a workspace: written byte for byte as LMDeploy does, and read."""

import math
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as IniError
from typing import Any, cast

import yaml

from mindpress.errors import InputError
from mindpress.formats.turbomind import Layout
from mindpress.formats.turbomind_config import RopeSettings, WeightType, WorkspaceConfig
from mindpress.formats.turbomind_dialects import (
    ENGINE,
    INI_RELEASES,
    SECTION,
    TEMPLATE_SESSIONS,
    V0_5,
    YAML_RELEASES,
    Dialect,
)
from mindpress.models.shape import MOST_LAYERS
from mindpress.models.values import LARGEST_DIMENSION

WEIGHT_TYPES: dict[str, WeightType] = {
    "fp16": "float16",
    "float16": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "int4": "int4",
}


def write_config(config: WorkspaceConfig, dialect: Dialect) -> str:
    """The text of `dialect.file`."""
    values = _values(config, dialect)
    chosen = {
        section: {key: values[key] for key in keys.split()}
        for section, keys in dialect.keys.items()
    }
    if dialect.layout == "yaml":
        return yaml.safe_dump(chosen)
    lines = [f"{key} = {value}\n" for key, value in chosen[SECTION].items()]
    return "".join((f"[{SECTION}]\n", *lines, "\n"))


def _values(config: WorkspaceConfig, dialect: Dialect) -> dict[str, object]:
    """The value of every key that any dialect knows."""
    rope, quantized = config.rope, config.weight_type == "int4"
    model: dict[str, object] = {
        "model_name": config.model_name,
        "model_arch": config.model_arch,
        "model_format": "awq" if quantized else "hf",
        "tensor_para_size": config.tp,
        "tp": config.tp,
        "head_num": config.heads,
        "kv_head_num": config.kv_heads,
        "size_per_head": config.head_dim,
        "hidden_units": config.hidden,
        "inter_size": config.inner,
        "vocab_size": config.vocab,
        "embedding_size": config.vocab,
        "num_layer": config.layers,
        "norm_eps": config.norm_eps,
        "attn_bias": int(config.attn_bias),
        "start_id": config.start_id,
        "end_id": config.end_id,
        "session_len": config.session_length + dialect.session_extra,
        "weight_type": dialect.float_names.get(config.weight_type, config.weight_type),
        "group_size": config.group_size if quantized else dialect.float_group,
        "quant_policy": config.quant_policy,
        "max_position_embeddings": config.trained_length,
        "rotary_embedding": config.rotary_dim,
        "rope_theta": rope.theta,
        "rope_scaling_type": rope.kind,
        "rope_scaling_factor": rope.factor,
        "use_dynamic_ntk": int(rope.kind == "dynamic"),
        "original_max_position_embeddings": rope.original_length,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "attention_factor": rope.attention_factor,
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
    }
    return ENGINE | model | dialect.constants


def read_config(text: str, layout: Layout) -> WorkspaceConfig:
    """Inverse of `write_config` for the releases 0.1 to 0.6.3.

    Raises InputError naming the key when one is missing, absurd, or means a model that is no
    dense Llama.
    """
    keys = _Keys(_parse_ini(text) if layout == "ini" else _parse_yaml(text))
    release = _release(keys.values, layout)
    _refuse_others(keys, release)
    heads, head_dim = keys.integer("head_num"), keys.integer("size_per_head")
    trained = keys.integer("max_position_embeddings", 0)
    weight_type = keys.weight_type()
    return WorkspaceConfig(
        layout=layout,
        release=release,
        model_name=keys.text("model_name"),
        model_arch=keys.text("model_arch"),
        tp=keys.integer("tensor_para_size" if layout == "ini" else "tp"),
        layers=keys.integer("num_layer", most=MOST_LAYERS),
        hidden=keys.integer("hidden_units") if layout == "yaml" else heads * head_dim,
        heads=heads,
        kv_heads=keys.integer("kv_head_num") if "kv_head_num" in keys.values else heads,
        head_dim=head_dim,
        rotary_dim=keys.integer("rotary_embedding"),
        inner=keys.integer("inter_size"),
        vocab=keys.integer("vocab_size"),
        norm_eps=keys.positive("norm_eps"),
        attn_bias=bool(keys.integer("attn_bias", 0)),
        start_id=keys.integer("start_id", 0),
        end_id=keys.integer("end_id", 0),
        session_length=_session_length(keys, release, layout, trained),
        trained_length=trained,
        weight_type=weight_type,
        group_size=keys.integer("group_size") if weight_type == "int4" else 0,
        rope=_rope(keys),
        quant_policy=keys.integer("quant_policy", 0),
    )


def _parse_ini(text: str) -> dict[str, Any]:
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
    except IniError as error:
        raise InputError(f"not readable: {error}") from None
    if SECTION not in parser:
        raise InputError(f"no section [{SECTION}]")
    return dict(parser[SECTION])


def _parse_yaml(text: str) -> dict[str, Any]:
    """All sections in one map: no key stands in two of them."""
    try:
        # A few aliases of aliases are a text without end.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise InputError("holds an alias (`*name`), which LMDeploy never writes")
        sections = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"not readable: {error}") from None
    if not isinstance(sections, dict) or not isinstance(sections.get("model_config"), dict):
        raise InputError("no map `model_config`")
    merged: dict[str, Any] = {}
    for section in cast(dict[str, Any], sections).values():
        merged |= section if isinstance(section, dict) else {}
    return merged


def _release(values: Mapping[str, Any], layout: Layout) -> str:
    releases = INI_RELEASES if layout == "ini" else YAML_RELEASES
    return next(release for release, keys in releases if keys <= values.keys())


def _refuse_others(keys: "_Keys", release: str) -> None:
    if release.startswith("0.7") or isinstance(keys.values.get("inter_size"), list):
        raise InputError(
            "written by LMDeploy 0.7 or later, which is not read",
            hint="convert the original model with mindpress",
        )
    if keys.text("lora_policy"):
        raise InputError("`lora_policy` is set: models with adapters are not read")
    if keys.integer("expert_num", 0):
        raise InputError("`expert_num` is set: mixtures of experts are not read")


def _session_length(keys: "_Keys", release: str, layout: Layout, trained: int) -> int:
    if layout == "yaml":
        return keys.integer("session_len")
    if release in TEMPLATE_SESSIONS and trained:
        return trained
    return max(1, keys.integer("session_len") - V0_5.session_extra)


def _rope(keys: "_Keys") -> RopeSettings:
    factor = keys.number("rope_scaling_factor", 0.0)
    # Engines up to 0.2.6 have no switch for dynamic NTK: a factor turns it on.
    dynamic = bool(keys.integer("use_dynamic_ntk", int(factor >= 1.0)))
    return RopeSettings(
        theta=keys.positive("rope_theta", 10000.0),
        kind=keys.text("rope_scaling_type") or ("dynamic" if dynamic else ""),
        factor=factor,
        original_length=keys.integer("original_max_position_embeddings", 0),
        low_freq_factor=keys.number("low_freq_factor", 1.0),
        high_freq_factor=keys.number("high_freq_factor", 1.0),
        attention_factor=keys.number("attention_factor", -1.0),
        beta_fast=keys.number("beta_fast", 32.0),
        beta_slow=keys.number("beta_slow", 1.0),
    )


class _Keys:
    """Typed access to the keys of a config; what the file lacks must have a default."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def text(self, key: str) -> str:
        """Empty when the key is missing."""
        value = self.values.get(key)
        return "" if value is None else str(value)

    def integer(self, key: str, default: int | None = None, most: int = LARGEST_DIMENSION) -> int:
        """A count. With a default it may be 0 (and the ids of tokens are bounded alike)."""
        value = self._number(key, default)
        least = 1 if default is None else 0
        if value != int(value) or not least <= value <= most:
            raise InputError(f"`{key}` is {value}, expected a number from {least} to {most}")
        return int(value)

    def number(self, key: str, default: float) -> float:
        """Any finite number."""
        return self._number(key, default)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self._number(key, default)
        if value <= 0:
            raise InputError(f"`{key}` is {value}, expected a positive number")
        return value

    def weight_type(self) -> WeightType:
        name = self.text("weight_type")
        if name not in WEIGHT_TYPES:
            known = ", ".join(WEIGHT_TYPES)
            raise InputError(f"`weight_type` is `{name}`", hint=f"readable: {known}")
        return WEIGHT_TYPES[name]

    def _number(self, key: str, default: float | int | None) -> float:
        value = self.values.get(key, default)
        try:
            number = float(value)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, OverflowError):
            missing = "is missing" if value is None else f"is {value!r}, expected a number"
            raise InputError(f"`{key}` {missing}") from None
        if not math.isfinite(number):
            raise InputError(f"`{key}` is {value}")
        return number
