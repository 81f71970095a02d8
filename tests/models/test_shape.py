"""config.json is read as transformers reads it, in both spellings, and nonsense is refused."""

import copy
import json
import math

import pytest
from tiny_models import OWN, SIZES
from transformers import AutoConfig

from mindpress.errors import InputError
from mindpress.models.registry import ARCHITECTURES
from mindpress.models.shape import architecture_of, read_shape

NATIVE = [name for name in ARCHITECTURES if name != "InternLM2ForCausalLM"]
LLAMA = ARCHITECTURES["LlamaForCausalLM"]
PLAIN = {**SIZES, "architectures": ["LlamaForCausalLM"]}
SLIDING = {"sliding_window": 64, "use_sliding_window": True}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}  # fmt: skip
LONGROPE = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
ROPES = {
    "default": ("llama", {}),
    "linear": ("llama", {"rope_type": "linear", "factor": 2.0}),
    "dynamic": ("internlm3", {"rope_type": "dynamic", "factor": 6.0}),
    "llama3": ("llama", {"rope_type": "llama3", **LLAMA3}),
    "yarn": (
        "qwen2",
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ),
    "longrope": ("phi3", {"rope_type": "longrope", **LONGROPE}),
    "su": ("phi3", {"type": "su", "original_max_position_embeddings": 4096, **LONGROPE}),
}


def real_config(name: str, **changes):
    """What the transformers class makes of the same keys."""
    model_type = ARCHITECTURES[name].model_type
    return AutoConfig.for_model(model_type, **{**SIZES, **OWN[model_type], **changes})


def real_windows(config) -> tuple:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return (window,) * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


@pytest.mark.parametrize("name", NATIVE)
def test_constants_are_those_of_transformers(name):
    changes = {"rms_norm_eps": 3e-5, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    config = real_config(name, **changes)
    shape = read_shape(config.to_dict(), ARCHITECTURES[name])
    assert (shape.layers, shape.hidden, shape.inner, shape.vocab) == (2, 128, 256, 4096)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (4, 2, 32)
    assert shape.norm_eps == config.rms_norm_eps == 3e-5
    assert shape.rope.theta == 5e5
    assert shape.windows == real_windows(config)
    assert shape.attention_cap == getattr(config, "attn_logit_softcapping", None)
    assert shape.logit_cap == getattr(config, "final_logit_softcapping", None)
    assert shape.query_scale == 32**-0.5
    assert shape.max_length == 512


@pytest.mark.parametrize("name", NATIVE)
def test_what_the_config_leaves_out_is_what_transformers_assumes(name):
    architecture = ARCHITECTURES[name]
    config = AutoConfig.for_model(architecture.model_type)
    given = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size",
             "vocab_size")  # fmt: skip
    shape = read_shape({key: getattr(config, key) for key in given}, architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert shape.kv_heads == config.num_key_value_heads
    assert shape.head_dim == head_dim
    assert shape.norm_eps == config.rms_norm_eps
    assert shape.rope.theta == config.rope_parameters["rope_theta"]
    assert shape.windows == real_windows(config)
    assert shape.tied == config.tie_word_embeddings
    assert shape.max_length == config.max_position_embeddings
    assert shape.activation == getattr(config, "hidden_activation", None) or config.hidden_act
    assert shape.attention_cap == getattr(config, "attn_logit_softcapping", None)
    assert shape.logit_cap == getattr(config, "final_logit_softcapping", None)
    assert shape.query_scale == getattr(config, "query_pre_attn_scalar", head_dim) ** -0.5


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("MistralForCausalLM", {"sliding_window": 64}),
        ("Phi3ForCausalLM", {"sliding_window": 64}),
        ("Qwen2ForCausalLM", {"sliding_window": 64}),
        ("Qwen2ForCausalLM", SLIDING),
        ("Qwen3ForCausalLM", {**SLIDING, "max_window_layers": 1}),
        ("Qwen3ForCausalLM", {**SLIDING, "max_window_layers": 0}),
        ("Gemma2ForCausalLM", {"sliding_window": 64, "num_hidden_layers": 5}),
        ("Gemma2ForCausalLM", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("LlamaForCausalLM", {}),
    ],
)  # fmt: skip
def test_windows_are_those_of_transformers(name, changes):
    """Also when layer_types, which older configs lack, is not there."""
    config = real_config(name, **changes)
    spelled = config.to_dict()
    assert read_shape(spelled, ARCHITECTURES[name]).windows == real_windows(config)
    if "layer_types" not in changes:
        older = {key: value for key, value in spelled.items() if key != "layer_types"}
        older["sliding_window"] = changes.get("sliding_window")
        assert read_shape(older, ARCHITECTURES[name]).windows == real_windows(config)


@pytest.mark.parametrize("case", ROPES)
def test_both_spellings_of_rope(case):
    family, scaling = ROPES[case]
    name = next(key for key, value in ARCHITECTURES.items() if value.model_type == family)
    older = {**SIZES, **OWN[family], "rope_theta": 1e6}
    if scaling:
        older["rope_scaling"] = copy.deepcopy(scaling)
    config = AutoConfig.for_model(family, **copy.deepcopy(older))
    real = config.rope_parameters
    for spelled in (older, json.loads(config.to_json_string(use_diff=False))):
        rope = read_shape(spelled, ARCHITECTURES[name]).rope
        assert rope.theta == real["rope_theta"] == 1e6
        assert rope.kind == real["rope_type"]
        assert rope.get("factor", 1.0) == real.get("factor", 1.0)
        assert rope.parameters.get("long_factor") == real.get("long_factor")
        original = real.get("original_max_position_embeddings", 0.0)
        assert rope.get("original_max_position_embeddings", 0.0) == original


def test_a_partial_rotary_factor_in_either_place():
    phi3 = ARCHITECTURES["Phi3ForCausalLM"]
    assert read_shape({**SIZES, "partial_rotary_factor": 0.5}, phi3).rotary_dim == 16
    nested = {**SIZES, "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 1e4}}
    assert read_shape(nested, phi3).rotary_dim == 8


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": None}, "`hidden_size` is missing"),
        ({"hidden_size": 0}, "`hidden_size` is 0"),
        ({"hidden_size": -4}, "`hidden_size` is -4"),
        ({"hidden_size": 128.0}, "`hidden_size` is 128.0"),
        ({"hidden_size": "128"}, "`hidden_size` is '128'"),
        ({"hidden_size": True}, "`hidden_size` is True"),
        ({"hidden_size": 10**12}, "`hidden_size` is 1000000000000"),
        ({"hidden_size": 10**4000}, "`hidden_size` is 10000"),
        ({"num_hidden_layers": 10_000}, "`num_hidden_layers` is 10000"),
        ({"num_attention_heads": 10**9}, "`num_attention_heads` is 1000000000"),
        ({"num_attention_heads": 1000}, "1000 heads are no multiple|`head_dim` is 0"),
        ({"num_key_value_heads": 3}, "4 heads are no multiple of 3"),
        ({"num_key_value_heads": 8}, "4 heads are no multiple of 8"),
        ({"vocab_size": math.nan}, "`vocab_size` is nan"),
        ({"rms_norm_eps": math.nan}, "`rms_norm_eps` is nan"),
        ({"rms_norm_eps": 0}, "`rms_norm_eps` is 0"),
        ({"rms_norm_eps": "1e-5"}, "`rms_norm_eps` is '1e-5'"),
        ({"rope_theta": math.inf}, "`rope_theta` is inf"),
        ({"rope_theta": 10**400}, "`rope_theta` is 10000"),
        ({"rope_scaling": [1]}, "`rope_scaling` is"),
        ({"rope_scaling": {"type": "linear", "factor": math.nan}}, "`rope_scaling` is"),
        ({"rope_scaling": {"type": 5}}, "`type` is 5"),
        ({"rope_parameters": {"full_attention": {}}}, "`rope_scaling` is"),
        ({"partial_rotary_factor": 2.0}, "`partial_rotary_factor` is 2.0"),
        ({"attn_logit_softcapping": "hot"}, "`attn_logit_softcapping` is 'hot'"),
        ({"final_logit_softcapping": math.nan}, "`final_logit_softcapping` is nan"),
        ({"query_pre_attn_scalar": -1}, "`query_pre_attn_scalar` is -1"),
        ({"tie_word_embeddings": "yes"}, "`tie_word_embeddings` is 'yes'"),
        ({"attention_bias": "false"}, "`attention_bias` is 'false'"),
        ({"hidden_act": 7}, "`hidden_act` is 7"),
        ({"dtype": {}}, "`dtype` is {}"),
        ({"max_position_embeddings": -1}, "`max_position_embeddings` is -1"),
        ({"max_position_embeddings": 10**9}, "`max_position_embeddings` is 1000000000"),
        ({"max_position_embeddings": True}, "`max_position_embeddings` is True"),
    ],
)
def test_nonsense_is_refused_by_key_and_value(changes, named):
    """As JSON, which knows NaN and Infinity when Python reads it."""
    config = {key: v for key, v in {**PLAIN, **changes}.items() if v is not None}
    with pytest.raises(InputError, match=named) as caught:
        read_shape(json.loads(json.dumps(config)), LLAMA)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sliding_window": 0}, "`sliding_window` is 0"),
        ({"sliding_window": "4096"}, "`sliding_window` is '4096'"),
        ({"layer_types": ["full_attention"]}, "`layer_types` is"),
        ({"layer_types": "full"}, "`layer_types` is 'full'"),
        ({"max_window_layers": "all"}, "`max_window_layers` is 'all'"),
        ({"use_sliding_window": 1}, "`use_sliding_window` is 1"),
    ],
)
def test_nonsense_about_windows_is_refused(changes, named):
    config = {**SIZES, "use_sliding_window": True, "sliding_window": 64, **changes}
    with pytest.raises(InputError, match=named):
        read_shape(config, ARCHITECTURES["Qwen2ForCausalLM"])


@pytest.mark.parametrize("value", [None, [], [None], "LlamaForCausalLM", [["x"]], {}])
def test_a_config_without_a_class_is_refused(value):
    with pytest.raises(InputError, match="`architectures` names no model class"):
        architecture_of({"architectures": value})
