"""A folder whose files were changed at random opens or is refused, and never fails otherwise."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import save_tiny

from mindpress.errors import InputError, MindpressError
from mindpress.sources.folder import open_folder

SMALL = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "tokenizer": False}
WORDS = st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
KEYS = ["architectures", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "num_hidden_layers", "intermediate_size", "vocab_size", "rms_norm_eps", "rope_parameters",
        "rope_scaling", "rope_theta", "tie_word_embeddings", "attention_bias", "mlp_bias",
        "max_position_embeddings", "quantization_config", "sliding_window", "layer_types",
        "hidden_act", "dtype", "torch_dtype", "partial_rotary_factor"]  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("fuzz") / "model", **SMALL)


@given(st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_config_opens_or_is_refused(fuzzed, changes):
    file = fuzzed / "config.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(before), **changes}))
        open_folder(fuzzed).linears(0)
    except MindpressError:
        pass
    finally:
        file.write_text(before)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_damage_to_a_header_opens_or_is_refused(fuzzed, data):
    """A few bytes of the first kilobyte are changed: sizes, names, offsets, types."""
    file = fuzzed / "model.safetensors"
    before = file.read_bytes()
    damaged = bytearray(before)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 1023))] = data.draw(st.integers(0, 255))
    try:
        file.write_bytes(damaged)
        open_folder(fuzzed).linears(0)
    except InputError:
        pass
    finally:
        file.write_bytes(before)
