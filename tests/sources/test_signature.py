"""Whose ranges of keys and values serve whom."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, edit_config, save_tiny

from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.rounding import round_to_nearest
from mindpress.sources.opening import open_source
from mindpress.sources.signature import cache_signature, same_cache

SIZES = {"hidden_size": 256, "head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 2,
         "intermediate_size": 256}  # fmt: skip


def in_4_bits(weight):
    return round_to_nearest(weight, QuantSpec()).dequantize(weight.dtype)


def signature(folder):
    return cache_signature(open_source(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_itself_and_no_other(family, tmp_path):
    one = save_tiny(family, tmp_path / "one")
    other = save_tiny(family, tmp_path / "other", seed=1)
    assert same_cache(signature(one), signature(one))
    assert not same_cache(signature(one), signature(other))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_floats_are_the_same_model(dtype, tmp_path):
    one = save_tiny("llama", tmp_path / "one", dtype=torch.float32, **SIZES)
    workspace = tmp_path / "ws"
    convert_model(Conversion(str(one), workspace, dtype=dtype))
    assert same_cache(signature(one), signature(workspace))


def test_rounded_codes_are_the_same_model_and_smoothed_values_are_not(tmp_path):
    one = save_tiny("llama", tmp_path / "one", **SIZES)
    before, tensors = signature(one), load_file(one / "model.safetensors")
    rounded = {name: in_4_bits(t) if "_proj" in name else t for name, t in tensors.items()}
    save_file(rounded, one / "model.safetensors")
    assert same_cache(before, signature(one))
    smoothed = save_tiny("llama", tmp_path / "two", **SIZES)
    name = "model.layers.1.self_attn.v_proj.weight"
    divisors = torch.linspace(0.7, 1.4, len(tensors[name])).unsqueeze(1)
    save_file({**tensors, name: (tensors[name].float() / divisors).half()},
              smoothed / "model.safetensors")  # fmt: skip
    assert not same_cache(before, signature(smoothed))


def test_other_sizes_and_damage_are_no_match(tmp_path):
    one = save_tiny("llama", tmp_path / "one")
    known = signature(one)
    edit_config(one, num_attention_heads=4, num_key_value_heads=2)
    for damaged in ("", "2x2", known[:-3], known.replace(":", ":*"), "1" + known):
        assert not same_cache(known, damaged)
