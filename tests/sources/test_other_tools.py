"""Folders of GPTQModel and llm-compressor are read as what they say, damaged ones are refused."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_coded import code_folder, config_of
from tiny_models import edit_config, save_tiny

from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.errors import InputError, MindpressError
from mindpress.formats.compressed_tensors import CompressedLayout
from mindpress.formats.gptq import GptqLayout
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.sources.folder import open_folder
from mindpress.sources.inspect import inspect_path

SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "tokenizer": False}
LAYOUTS = {
    "gptq": GptqLayout(QuantSpec(4, 32, symmetric=True)),
    "gptq asymmetric": GptqLayout(QuantSpec(4, 32)),
    "gptq v2": GptqLayout(QuantSpec(4, 32), minus_one=False),
    "gptq 8": GptqLayout(QuantSpec(8, -1, symmetric=True)),
    "gptq 3": GptqLayout(QuantSpec(3, 32)),
    "gptq 2": GptqLayout(QuantSpec(2, 32)),
    "packed": CompressedLayout(QuantSpec(4, 32, symmetric=True)),
    "packed asymmetric": CompressedLayout(QuantSpec(4, 32)),
    "packed 8": CompressedLayout(QuantSpec(8, -1, symmetric=True)),
    "int8": CompressedLayout(QuantSpec(8, -1, symmetric=True), "int-quantized"),
}
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "model", **SIZES)


def change(folder: Path, **parts: torch.Tensor | None) -> None:
    """Set tensors of one linear; None deletes one."""
    tensors = load_file(folder / "model.safetensors")
    for part, tensor in parts.items():
        tensors.pop(f"{UP}.{part}", None)
        if tensor is not None:
            tensors[f"{UP}.{part}"] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_folder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_linears_are_the_codes_that_were_written(folder, name):
    layout = LAYOUTS[name]
    written = code_folder(folder, layout)
    source = open_folder(folder)
    assert source.spec == layout.spec
    stored = source.linear(UP).weight
    assert isinstance(stored, QuantizedWeight)
    for part in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(stored, part), getattr(written[UP], part)), part
    assert len(source.linears(1)) == 7
    found = inspect_path(folder)
    assert (found.format, found.dtype) == (layout.label, f"int{layout.spec.bits}")
    assert found.group_size == layout.spec.group_size
    assert found.bits_per_weight < 16


@pytest.mark.parametrize(
    ("family", "name"),
    [("internlm2", "gptq"), ("phi3", "packed asymmetric"), ("qwen2", "int8")],
)
def test_a_model_of_codes_computes_what_their_floats_compute(family, name, tmp_path):
    coded = save_tiny(family, tmp_path / "coded", tokenizer=False, vocab_size=64)
    whole = save_tiny(family, tmp_path / "whole", tokenizer=False, vocab_size=64)
    written = code_folder(coded, LAYOUTS[name])
    tensors = load_file(whole / "model.safetensors")
    for linear, weight in written.items():
        tensors[f"{linear}.weight"] = weight.dequantize(torch.float32)
    save_file(tensors, whole / "model.safetensors", metadata={"format": "pt"})
    ids = torch.arange(24).unsqueeze(0)
    config = EngineConfig("cpu", kernels="reference")
    decoders = [load_decoder(open_folder(path), config) for path in (coded, whole)]
    ours, expected = (decoder.logits(decoder.hidden(ids)[0]) for decoder in decoders)
    assert torch.equal(ours, expected)
    assert ours.std() > 0.01


class TestGroupsOutOfOrder:
    @pytest.fixture
    def index(self) -> torch.Tensor:
        shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(3))
        return (torch.arange(64, dtype=torch.int32) // 32)[shuffled]

    def test_such_a_folder_is_one_of_floats(self, folder, index):
        written = code_folder(folder, LAYOUTS["gptq asymmetric"])[UP]
        before = open_folder(folder).linear("model.layers.1.mlp.up_proj").weight
        change(folder, g_idx=index)
        source = open_folder(folder)
        assert source.spec is None
        weight = source.linear(UP).weight
        groups = index.long()
        expected = written.codes.float() - written.zeros[:, groups].float()
        assert torch.equal(weight, expected * written.scales[:, groups].float())
        other = source.linear("model.layers.1.mlp.up_proj").weight
        assert torch.equal(other, before.dequantize(torch.float32))
        assert "GPTQ, groups out of order" in inspect_path(folder).format

    def test_of_compressed_tensors_too(self, folder, index):
        code_folder(folder, LAYOUTS["packed"])
        change(folder, weight_g_idx=index)
        assert open_folder(folder).scattered

    def test_groups_of_another_size_are_refused(self, folder, index):
        code_folder(folder, LAYOUTS["gptq"])
        index[index == 1] = 0
        change(folder, g_idx=index)
        assert f"`{UP}.g_idx` does not put 32 inputs into each of 2" in refusal(folder)

    def test_a_folder_without_indices_is_one_of_neighbours(self, folder):
        code_folder(folder, LAYOUTS["gptq"])
        change(folder, g_idx=None)
        assert open_folder(folder).spec == LAYOUTS["gptq"].spec


def test_a_bias_that_the_model_has_not_is_read(folder):
    """AutoGPTQ wrote zeros."""
    code_folder(folder, LAYOUTS["gptq"])
    change(folder, bias=torch.zeros(96).half())
    assert torch.equal(open_folder(folder).linear(UP).bias, torch.zeros(96).half())


class TestLeftOut:
    @pytest.mark.parametrize("name", ["gptq", "packed", "int8"])
    def test_a_module_may_be_left_in_floats(self, folder, name):
        code_folder(folder, LAYOUTS[name], left="down_proj")
        linears = open_folder(folder).linears(0)
        assert isinstance(linears["down"].weight, torch.Tensor)
        assert isinstance(linears["up"].weight, QuantizedWeight)

    @pytest.mark.parametrize("name", ["packed", "int8"])
    def test_the_config_must_say_so(self, folder, name):
        code_folder(folder, LAYOUTS[name], left="down_proj")
        edit_config(folder, quantization_config=config_of(LAYOUTS[name]))
        assert "down_proj` is in floats, and `ignore` in quantization_config does" in refusal(
            folder
        )
        edit_config(folder, quantization_config=config_of(LAYOUTS[name], "_proj"))
        assert "`model.layers.0.self_attn.q_proj` is in codes, and `ignore`" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("gptq", "qweight", "missing (1): model.layers.0.mlp.up_proj.qweight"),
        ("gptq", "qzeros", "missing (1): model.layers.0.mlp.up_proj.qzeros"),
        ("packed", "weight_packed", "missing (1): model.layers.0.mlp.up_proj.weight_packed"),
        ("packed", "weight_shape", "missing (1): model.layers.0.mlp.up_proj.weight_shape"),
        ("packed asymmetric", "weight_zero_point", "missing (1): "),
        ("int8", "weight", "missing (1): model.layers.0.mlp.up_proj.weight"),
        ("int8", "weight_scale", "missing (1): model.layers.0.mlp.up_proj.weight_scale"),
    ],
)
def test_a_missing_part(folder, name, part, message):
    code_folder(folder, LAYOUTS[name])
    change(folder, **{part: None})
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("name", "part", "tensor", "message"),
    [
        ("gptq", "qweight", torch.zeros(8, 95, dtype=torch.int32), "is [8, 95], expected [8, 96]"),
        ("gptq", "qzeros", torch.zeros(2, 12), "is torch.float32, expected torch.int32"),
        ("gptq", "g_idx", torch.zeros(63, dtype=torch.int32), "is [63], expected [64]"),
        ("gptq", "stray", torch.zeros(2), "describes (1): model.layers.0.mlp.up_proj.stray"),
        ("packed", "weight_packed", torch.zeros(96, 9, dtype=torch.int32), "expected [96, 8]"),
        ("packed", "weight_scale", torch.zeros(96, 1), "is [96, 1], expected [96, 2]"),
        ("int8", "weight", torch.zeros(96, 64).half(), "is torch.float16, expected torch.int8"),
        ("int8", "weight_scale", torch.zeros(96), "is [96], expected [96, 1]"),
    ],
)
def test_a_part_of_another_shape_or_type(folder, name, part, tensor, message):
    code_folder(folder, LAYOUTS[name])
    change(folder, **{part: tensor})
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gptq", {"bits": 8}, "expected ["),
        ("gptq", {"group_size": 48}, "4 bits in groups of 48 do not divide"),
        ("gptq", {"group_size": -1}, "qzeros` is ["),
        ("packed", {"format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized' cannot be read"),
        ("packed", {"format": "int-quantized"}, "num_bits is 4, expected 8"),
    ],
)
def test_a_config_of_another_folder(folder, name, changes, message):
    code_folder(folder, LAYOUTS[name])
    edit_config(folder, quantization_config={**config_of(LAYOUTS[name]), **changes})
    assert message in refusal(folder)


WORDS = st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory) -> dict[str, Path]:
    home, folders = tmp_path_factory.mktemp("fuzz"), {}
    for name in ("gptq", "packed"):
        folders[name] = save_tiny("llama", home / name, **SIZES)
        code_folder(folders[name], LAYOUTS[name])
    return folders


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_config_opens_or_is_refused(fuzzed, data):
    name = data.draw(st.sampled_from(["gptq", "packed"]))
    config = config_of(LAYOUTS[name])
    keys = [*config, "dynamic", "lm_head", "kv_cache_scheme", "sparsity_config", "pack_dtype"]
    where = config
    if name == "packed" and data.draw(st.booleans()):
        group = config["config_groups"]["group_0"]
        where = group["weights"] if data.draw(st.booleans()) else group
        keys = [*where, "targets", "format"]
    where[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    file = fuzzed[name] / "config.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(before), "quantization_config": config}))
        open_folder(fuzzed[name]).linears(0)
    except MindpressError:
        pass
    finally:
        file.write_text(before)
