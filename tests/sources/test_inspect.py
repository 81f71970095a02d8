import json
from pathlib import Path

import pytest
from tiny_awq import quantize_folder
from tiny_models import edit_config, save_tiny, tiny_model
from tiny_ranges import random_ranges

from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.errors import InputError
from mindpress.formats.cache_spec import CacheSpec
from mindpress.sources.inspect import inspect_path

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hf"
# 2 heads of 128 on 256 channels, 2 kv heads, inner width 256, 64 tokens, 1 layer.
MHA_PARAMETERS = 4 * 256 * 256 + 3 * 256 * 256 + 2 * 64 * 256 + 3 * 256


def test_a_float_folder():
    found = inspect_path(GOLDEN / "mha")
    assert found.problems == ()
    assert (found.kind, found.format, found.family) == (
        "model folder", "safetensors", "LlamaForCausalLM",
    )  # fmt: skip
    assert found.parameters == MHA_PARAMETERS
    assert found.bytes == 2 * MHA_PARAMETERS
    assert found.bits_per_weight == 16.0
    assert (found.layers, found.heads, found.kv_heads, found.head_dim) == (1, 2, 2, 128)
    assert (found.dtype, found.group_size, found.tp) == ("float16", None, None)
    assert found.version == "4.41.2"


def test_codes_are_counted_as_weights_and_not_as_words():
    found = inspect_path(GOLDEN / "mha-awq")
    assert found.parameters == MHA_PARAMETERS
    linears = 7 * 256 * 256
    packed = linears / 2 + linears / 128 * (2 + 0.5) + (2 * 64 * 256 + 3 * 256) * 2
    assert found.bytes == packed
    assert found.bits_per_weight == 8 * packed / MHA_PARAMETERS
    assert (found.format, found.dtype, found.group_size) == ("AWQ gemm", "int4", 128)


@pytest.mark.parametrize("version", ["0.2", "0.3", "0.5", "0.6"])
def test_a_workspace(version, tmp_path):
    source = GOLDEN / "mha-awq"
    convert_model(Conversion(str(source), tmp_path / "workspace", tp=2, tm_version=version))
    found = inspect_path(tmp_path / "workspace")
    assert found.problems == ()
    assert (found.kind, found.family) == ("workspace", "LlamaForCausalLM")
    assert (found.tp, found.dtype, found.group_size) == (2, "int4", 128)
    assert found.parameters == MHA_PARAMETERS
    assert found.version.startswith(version)
    assert json.loads(json.dumps(found.as_dict()))["tp"] == 2
    assert found.cache is None


@pytest.mark.parametrize("version", ["0.2", "0.3", "0.5", "0.6"])
@pytest.mark.parametrize("granularity", ["tensor", "head", "channel"])
def test_a_cache_of_codes(version, granularity, tmp_path):
    spec = CacheSpec(8, granularity=granularity)
    settings = Conversion(str(GOLDEN / "mha"), tmp_path / "ws", tm_version=version, cache=spec)
    convert_model(settings, calibrate=lambda *_: (random_ranges(1), {}))
    found = inspect_path(tmp_path / "ws")
    assert found.problems == ()
    assert found.cache == spec
    assert found.as_dict()["cache"] == {
        "bits": 8, "symmetric": False, "granularity": granularity,
    }  # fmt: skip


def test_a_cache_without_a_side_file_is_what_lmdeploy_makes_of_it(tmp_path):
    for version in ("0.3", "0.5"):
        spec = CacheSpec(8, granularity="head")
        settings = Conversion(
            str(GOLDEN / "mha"), tmp_path / version, tm_version=version, cache=spec
        )
        convert_model(settings, calibrate=lambda *_: (random_ranges(1), {}))
        (tmp_path / version / "triton_models" / "mindpress-cache.safetensors").unlink()
    assert inspect_path(tmp_path / "0.3").cache == CacheSpec(8, granularity="tensor")
    assert inspect_path(tmp_path / "0.5").cache == CacheSpec(8)
    weights = tmp_path / "0.3" / "triton_models" / "weights"
    (weights / "layers.0.past_kv_scale.0.weight").unlink()
    (tmp_path / "0.3" / "manifest.json").unlink()  # LMDeploy writes none
    assert "takes a scale of 1" in inspect_path(tmp_path / "0.3").problems[0]


def test_a_side_file_that_the_config_contradicts_is_a_problem(tmp_path):
    settings = Conversion(str(GOLDEN / "mha"), tmp_path / "ws", cache=CacheSpec(4))
    convert_model(settings)
    config = tmp_path / "ws" / "triton_models" / "weights" / "config.ini"
    for policy, asked in ((8, "an int8 one"), (0, "a 16-bit one")):
        config.write_text(
            config.read_text().replace("quant_policy = 4", f"quant_policy = {policy}")
        )
        (problem,) = inspect_path(tmp_path / "ws").problems
        assert "of an int4 cache" in problem
        assert asked in problem
        config.write_text(
            config.read_text().replace(f"quant_policy = {policy}", "quant_policy = 4")
        )
    assert inspect_path(tmp_path / "ws").problems == ()


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "internlm2", "phi3"])
def test_parameters_are_those_of_the_real_class(family, tmp_path):
    folder = save_tiny(family, tmp_path / "model", vocab_size=64)
    real = tiny_model(family, vocab_size=64)
    assert inspect_path(folder).parameters == sum(p.numel() for p in real.parameters())


def test_damage_is_listed_with_what_can_still_be_told(tmp_path):
    folder = save_tiny("llama", tmp_path / "model", vocab_size=64, tokenizer=False)
    (folder / "model.safetensors").write_bytes(b"damaged")
    found = inspect_path(folder)
    assert len(found.problems) == 2
    assert "truncated or damaged" in found.problems[0]
    assert "no tokenizer" in found.problems[1]
    assert (found.family, found.layers, found.parameters) == ("LlamaForCausalLM", 2, None)


def test_an_unknown_family_names_the_closest(tmp_path):
    folder = save_tiny("llama", tmp_path / "model", vocab_size=64)
    edit_config(folder, architectures=["LlamaForCasualLM"])
    found = inspect_path(folder)
    assert found.kind == "model folder"
    assert found.problems == (
        "no description of architecture `LlamaForCasualLM` (closest known: `LlamaForCausalLM`)",
    )


def test_a_damaged_workspace_still_says_what_it_was(tmp_path):
    workspace = tmp_path / "workspace"
    convert_model(Conversion(str(GOLDEN / "mha"), workspace))
    (workspace / "triton_models" / "weights" / "norm.weight").unlink()
    (workspace / "triton_models" / "tokenizer" / "tokenizer.json").unlink()
    found = inspect_path(workspace)
    assert len(found.problems) == 2
    assert "norm.weight" in found.problems[0]
    assert "no tokenizer" in found.problems[1]
    assert (found.format, found.layers, found.bytes) == ("TurboMind config.ini", 1, None)
    (workspace / "triton_models" / "weights" / "config.ini").unlink()
    assert inspect_path(workspace).layers is None


def test_linears_left_in_16_bits_are_counted(tmp_path):
    folder = save_tiny("llama", tmp_path / "model", hidden_size=128, intermediate_size=256)
    whole = inspect_path(folder)
    quantize_folder(folder, left="down_proj")
    found = inspect_path(folder)
    assert found.parameters == whole.parameters
    assert found.bytes < whole.bytes
    assert found.problems == ()


def test_a_folder_that_is_no_model(tmp_path):
    found = inspect_path(tmp_path)
    assert found.kind == "unknown"
    assert any("config.json" in problem for problem in found.problems)


def test_a_path_that_is_nothing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        inspect_path(tmp_path / "nothing")
