"""Whole runs into every format, read back by mindpress and, bit by bit, by this file."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mindpress.demo
from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantizedWeight
from mindpress.lite.plan import plan_quantization
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Recipe
from mindpress.sources.folder import open_folder
from mindpress.sources.inspect import inspect_path
from tests.short_runs import FEW
from tests.tiny_models import save_tiny

TRAINED = Path(mindpress.demo.__file__).parent / "tiny-llama"
LINEAR = "model.layers.0.mlp.down_proj"


def recipe(model, **changes):
    settings = {
        "algorithm": "gptq", "group_size": 64, "rounding": "nearest", "calibration": FEW,
    } | changes  # fmt: skip
    return Recipe(str(model), **settings)


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def bits_of(words):
    """The bits of each row of words, the lowest of the first word first."""
    rows = [b"".join(struct.pack("<i", word) for word in row) for row in words.tolist()]
    return [int.from_bytes(row, "little") for row in rows]


def codes_of(words, bits, count):
    mask = 2**bits - 1
    return torch.tensor([[row >> bits * i & mask for i in range(count)] for row in bits_of(words)])


def gptq_weight(parts, bits, *, minus_one):
    """[outputs, inputs], by the group of each input in `g_idx`."""
    inputs, outputs = len(parts["g_idx"]), parts["scales"].shape[1]
    codes = codes_of(parts["qweight"].t(), bits, inputs).float()
    zeros = codes_of(parts["qzeros"], bits, outputs).float() + minus_one
    groups = parts["g_idx"].long()
    return (codes - zeros.t()[:, groups]) * parts["scales"].float().t()[:, groups]


def compressed_weight(parts, bits):
    outputs, inputs = parts["weight_shape"].tolist()
    codes = codes_of(parts["weight_packed"], bits, inputs).float()
    scales = parts["weight_scale"].float()
    zeros = torch.full(scales.shape, float(2 ** (bits - 1)))
    if "weight_zero_point" in parts:
        zeros = codes_of(parts["weight_zero_point"].t(), bits, outputs).float().t()
    size = inputs // scales.shape[1]
    spread = [part.repeat_interleave(size, 1) for part in (zeros, scales)]
    return (codes - spread[0]) * spread[1]


def parts_of(folder, linear=LINEAR):
    found = tensors_of(folder).items()
    return {n.removeprefix(f"{linear}."): t for n, t in found if n.startswith(f"{linear}.")}


def weight_in(parts, layout):
    """What the parts stand for, read without mindpress."""
    if layout.method == "gptq":
        return gptq_weight(parts, layout.spec.bits, minus_one=layout.spec.symmetric)
    return compressed_weight(parts, layout.spec.bits)


def codes_in(folder):
    """The codes that mindpress reads."""
    weight = folder.linear(LINEAR).weight
    assert isinstance(weight, QuantizedWeight)
    return weight


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    return save_tiny("llama", folder, num_hidden_layers=1)


@pytest.mark.parametrize("form", ["gptq", "compressed-tensors"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_folder_holds_the_weights_rounded_to_their_grids(
    small, tmp_path, bits, symmetric, form
):
    """Every weight within half a step of the original: of a step that float16 has rounded, too."""
    model = small if bits > 2 else TRAINED  # 2 bits ruin a random layer, which then stays in floats
    asked = recipe(model, bits=bits, symmetric=symmetric, format=form)
    target = quantize_model(asked, tmp_path / "out").target
    kept = open_folder(target)
    assert kept.layout is not None
    assert (kept.layout.spec.bits, kept.layout.spec.symmetric) == (bits, symmetric)
    parts = parts_of(target)
    assert set(parts) == set(kept.layout.written)
    found = weight_in(parts, kept.layout)
    original = tensors_of(model)[f"{LINEAR}.weight"].float()
    weight = codes_in(kept)
    assert torch.equal(weight.dequantize(torch.float32), found)
    steps = weight.scales.float()
    assert ((found - original).abs() <= 0.65 * steps.repeat_interleave(64, 1)).all()
    groups = original.unflatten(1, (-1, 64))
    widest = groups.abs().amax(-1) / (2 ** (bits - 1) - 1)
    if not symmetric:
        widest = (groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)) / (2**bits - 1)
    torch.testing.assert_close(steps, widest, rtol=1e-3, atol=0)


def test_the_group_of_each_input_is_written_for_gptq(small, tmp_path):
    target = quantize_model(recipe(small, group_size=-1), tmp_path / "out").target
    parts = parts_of(target)
    assert parts["g_idx"].tolist() == [0] * 256
    assert parts["scales"].shape == (1, 128)
    target = quantize_model(recipe(small), tmp_path / "grouped").target
    assert torch.equal(parts_of(target)["g_idx"], torch.arange(256, dtype=torch.int32) // 64)


@pytest.mark.parametrize(
    ("algorithm", "bits", "method"),
    [
        ("awq", 4, "awq"), ("awq", 8, "awq"), ("awq", 2, "compressed-tensors"),
        ("awq", 3, "compressed-tensors"), ("gptq", 4, "gptq"), ("gptq", 3, "gptq"),
    ],
)  # fmt: skip
def test_auto_is_the_format_of_the_algorithm_where_it_holds_the_codes(
    llama, algorithm, bits, method
):
    asked = recipe(llama, algorithm=algorithm, bits=bits)
    assert plan_quantization(asked).layout.method == method


@pytest.mark.parametrize("form", ["awq", "gptq", "compressed-tensors"])
def test_every_format_takes_codes_of_every_algorithm(small, tmp_path, form):
    dense = {}
    for algorithm in ("awq", "gptq"):
        report = quantize_model(
            recipe(small, algorithm=algorithm, format=form, symmetric=True), tmp_path / algorithm
        )
        assert config_of(report.target)["quant_method"] == form
        assert report.bytes_after == sum(
            tensor.nbytes for tensor in tensors_of(report.target).values()
        )
        folder = open_folder(report.target)
        assert folder.layout is not None
        assert report.format == folder.layout.label
        dense[algorithm] = codes_in(folder).dequantize(torch.float32)
    original = tensors_of(small)[f"{LINEAR}.weight"].float()
    assert (dense["gptq"] - original).norm() < 0.15 * original.norm()


def test_gptq_moves_no_scales(small, tmp_path):
    """Norms and biases are those of the model; smoothing is not even tried."""
    report = quantize_model(recipe(small, rounding="compensated"), tmp_path / "out")
    tried = {name for layer in report.layers for name in layer.candidates}
    assert tried == {"plain rounding", "compensated"}
    before, after = tensors_of(small), tensors_of(report.target)
    norms = [name for name in before if "norm" in name]
    assert len(norms) == 3
    assert all(torch.equal(before[name], after[name]) for name in norms)
    with pytest.raises(ConfigError, match="--search-scale"):
        recipe(small, search_scale=True)


@pytest.mark.parametrize("form", ["gptq", "compressed-tensors"])
def test_linears_that_do_not_fit_stay_in_floats_and_are_named(tmp_path, form):
    model = save_tiny("llama", tmp_path / "model", intermediate_size=192)
    target = quantize_model(recipe(model, format=form, group_size=128), tmp_path / "out").target
    assert torch.equal(
        tensors_of(target)[f"{LINEAR}.weight"], tensors_of(model)[f"{LINEAR}.weight"]
    )
    opened = open_folder(target)
    assert LINEAR not in opened.coded
    assert len(opened.coded) == 12
    config = config_of(target)
    if form == "gptq":
        assert list(config["dynamic"]) == [r"-:.*\.mlp\.down_proj$"]
    else:
        down = [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)]
        assert config["ignore"] == ["lm_head", *down]


@pytest.mark.parametrize("family", ["internlm2", "phi3", "qwen2", "gemma2"])
def test_fused_linears_and_biases_go_into_every_format(tmp_path, family):
    model = save_tiny(family, tmp_path / "model", num_hidden_layers=1)
    read = {}
    for form in ("awq", "gptq", "compressed-tensors"):
        asked = recipe(model, format=form, symmetric=True)
        target = quantize_model(asked, tmp_path / form).target
        source = open_folder(target)
        read[form] = source.linears(0)
        assert not inspect_path(target).problems
        head = source.architecture.head
        assert form != "compressed-tensors" or head in config_of(target)["ignore"]
    for role, linear in read["awq"].items():
        for form in ("gptq", "compressed-tensors"):
            other = read[form][role]
            assert torch.equal(linear.weight.dequantize(), other.weight.dequantize()), role
            assert (linear.bias is None) == (other.bias is None)


def test_a_bfloat16_model_with_biases_is_read_back_from_every_format(tmp_path):
    """Scales of AWQ and GPTQ are float16 whatever the model is."""
    model = save_tiny("qwen2", tmp_path / "model", num_hidden_layers=1, dtype=torch.bfloat16)
    for form in ("awq", "gptq", "compressed-tensors"):
        asked = recipe(model, format=form, symmetric=True)
        assert open_folder(quantize_model(asked, tmp_path / form).target).coded


def test_outputs_that_do_not_fill_words_are_left_or_refused_by_gptq(tmp_path):
    model = save_tiny("llama", tmp_path / "model", intermediate_size=144, num_hidden_layers=1)
    plan = plan_quantization(recipe(model, bits=3, group_size=16))
    why = {planned.linear.name: planned.obstacle for planned in plan.linears}
    assert "do not fill 32-bit words of GPTQ" in str(why["mlp.up_proj"])
    assert why["self_attn.q_proj"] is None
    filled = plan_quantization(recipe(model, bits=3, group_size=16, format="compressed-tensors"))
    assert not filled.skipped
    narrow = save_tiny("llama", tmp_path / "narrow", hidden_size=80, head_dim=20,
                       intermediate_size=80, num_hidden_layers=1)  # fmt: skip
    with pytest.raises(ConfigError, match="--format: none of the linears fits") as caught:
        plan_quantization(recipe(narrow, bits=3, group_size=16))
    assert "compressed-tensors" in str(caught.value.hint)


def test_the_card_names_the_command_the_format_and_its_readers(small, tmp_path):
    target = quantize_model(recipe(small, symmetric=True), tmp_path / "out").target
    card = (target / "README.md").read_text()
    assert "mindpress lite auto_gptq " in card
    assert "--w-sym True --format gptq --rounding nearest" in card
    assert "--search-scale" not in card
    assert "| format | GPTQ, group 64, symmetric |" in card
    assert "Loaders: vLLM, GPTQModel, transformers (with GPTQModel installed) and mindpress" in card
    low = quantize_model(recipe(small, algorithm="awq", bits=3), tmp_path / "low")
    card = (low.target / "README.md").read_text()
    assert "AWQ in 3 bits" in card
    assert "| format | compressed-tensors pack-quantized, group 64, asymmetric |" in card
    assert any("add --w-sym" in note for note in low.notes)
    page = (low.target / "report.html").read_text()
    assert "compressed-tensors pack-quantized" in page
