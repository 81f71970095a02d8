"""The whole run on tiny models: what a user finds in the output folder."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mindpress.checkpoint.reader import open_checkpoint
from mindpress.errors import ConfigError
from mindpress.events import Note
from mindpress.formats import awq
from mindpress.lite.quantize import quantize_model
from mindpress.sources.folder import open_folder
from tests.short_runs import recipe
from tests.tiny_models import FAMILIES, save_tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_out_whole_and_close(family, tmp_path):
    folder = save_tiny(family, tmp_path / family)
    report = quantize_model(recipe(folder), tmp_path / "awq")
    before, after = open_folder(folder), open_folder(tmp_path / "awq")
    assert after.spec is not None
    assert report.mean_error < 0.1
    for layer in range(2):
        assert set(after.linears(layer)) == set(before.linears(layer))
        biased = {role for role, part in before.linears(layer).items() if part.bias is not None}
        assert {r for r, part in after.linears(layer).items() if part.bias is not None} == biased
    assert sum(f.stat().st_size for f in (tmp_path / "awq").glob("*.safetensors")) < (
        before.checkpoint.nbytes
    )


def test_the_folder_has_everything_beside_the_weights(quantized):
    names = {file.name for file in quantized.target.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "chat_template.jinja", "README.md", "report.json", "report.html"} <= names  # fmt: skip
    assert not any(name.startswith((".", "part-", "journal")) for name in names)
    assert not list(quantized.target.parent.glob(".*partial"))
    report = json.loads((quantized.target / "report.json").read_text())
    assert [layer["layer"] for layer in report["layers"]] == [0, 1]
    assert report["recipe"]["calibration"]["samples"] == 6
    card = (quantized.target / "README.md").read_text()
    assert card.startswith("---\n")
    assert "--w-group-size 32" in card


def test_tensors_are_those_that_transformers_replaces_its_linears_by(quantized):
    """The buffers of the AWQ GEMM linear, as AutoAWQ 0.2.9, GPTQModel and vLLM declare them:
    qweight int32 [in, out / 8], qzeros int32 [in / g, out / 8], scales float16 [in / g, out]."""
    import transformers
    from transformers.quantizers.quantizers_utils import should_convert_module
    from transformers.utils.quantization_config import AwqConfig

    config = transformers.AutoConfig.from_pretrained(quantized.target)
    settings = AwqConfig.from_dict(dict(config.quantization_config))
    assert (settings.bits, settings.group_size, settings.zero_point) == (4, 32, True)
    del config.quantization_config
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    expected = {name: (t.shape, torch.float16) for name, t in model.state_dict().items()}
    skipped = [*(settings.modules_to_not_convert or []), "lm_head"]
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and should_convert_module(name, skipped):
            rows, columns = module.in_features, module.out_features
            del expected[f"{name}.weight"]
            expected[f"{name}.qweight"] = ((rows, columns // 8), torch.int32)
            expected[f"{name}.qzeros"] = ((rows // 32, columns // 8), torch.int32)
            expected[f"{name}.scales"] = ((rows // 32, columns), torch.float16)
    stored = load_file(quantized.target / "model.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in stored.items()} == expected


def test_config_has_the_keys_that_vllm_and_lmdeploy_ask_for(quantized):
    """vLLM reads bits, group_size, zero_point and the skipped modules, LMDeploy the method."""
    config = json.loads((quantized.target / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "modules_to_not_convert": None,
    }


def test_shards_above_the_limit_have_an_index(llama, quantized, tmp_path):
    quantize_model(recipe(llama, max_shard_size="300KB"), tmp_path / "awq")
    index = json.loads((tmp_path / "awq" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    sharded, whole = open_checkpoint(tmp_path / "awq"), open_checkpoint(quantized.target)
    assert sharded.tensors.keys() == whole.tensors.keys()
    for name in whole.tensors:
        assert torch.equal(sharded.tensor(name), whole.tensor(name))


def test_outliers_are_absorbed_but_not_by_plain_rounding(tmp_path):
    """The same function with loud channels, as large models have them: smoothing must undo it."""
    folder = save_tiny("llama", tmp_path / "loud", dtype=torch.float32)
    tensors = load_file(folder / "model.safetensors")
    loud = torch.ones(128)
    loud[[5, 77]] = 40
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] *= loud
        for part in "qkv":
            tensors[f"{prefix}.self_attn.{part}_proj.weight"] /= loud
        kv = torch.ones(64)
        kv[[3, 40]] = 40
        tensors[f"{prefix}.self_attn.v_proj.weight"] *= kv.unsqueeze(1)
        shared = kv.view(2, 1, 32).expand(2, 2, 32).flatten()
        tensors[f"{prefix}.self_attn.o_proj.weight"] /= shared
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    report = quantize_model(recipe(folder), tmp_path / "awq")
    assert report.mean_error < 0.5 * report.mean_plain_error
    assert all("scaled" in layer.method for layer in report.layers)


def test_a_layer_is_never_worse_than_plain_rounding(quantized):
    for layer in quantized.layers:
        assert layer.error <= layer.plain_error
        assert {"plain rounding", "scaled"} < set(layer.candidates)
        assert layer.error == min(layer.candidates.values())


def test_symmetric_codes_have_their_zero_in_the_middle(llama, tmp_path):
    quantize_model(recipe(llama, symmetric=True), tmp_path / "awq")
    for part in open_folder(tmp_path / "awq").linears(0).values():
        assert part.weight.zeros.eq(8).all()


def test_eight_bits_are_held_and_three_are_refused(llama, tmp_path):
    report = quantize_model(recipe(llama, bits=8), tmp_path / "w8")
    assert report.mean_error < 1e-3
    assert open_folder(tmp_path / "w8").spec.bits == 8
    with pytest.raises(ConfigError, match="--w-bits 3"):
        quantize_model(recipe(llama, bits=3, format="awq"), tmp_path / "w3")


def test_a_whole_row_may_share_a_scale(llama, tmp_path):
    quantize_model(recipe(llama, group_size=-1), tmp_path / "awq")
    assert open_folder(tmp_path / "awq").linears(0)["down"].weight.scales.shape == (128, 1)


def test_layers_the_group_does_not_fit_stay_in_16_bits(tmp_path):
    folder = save_tiny("llama", tmp_path / "m", intermediate_size=176)
    events = []
    quantize_model(recipe(folder), tmp_path / "awq", listener=events.append)
    notes = [e.text for e in events if isinstance(e, Note)]
    assert any("mlp.down_proj stays in 16 bits" in n and "176" in n for n in notes)
    config = json.loads((tmp_path / "awq" / "config.json").read_text())
    assert config["quantization_config"]["modules_to_not_convert"] == ["mlp.down_proj"]
    linears = open_folder(tmp_path / "awq").linears(0)
    assert linears["down"].weight.dtype == torch.float16
    assert linears["up"].weight.spec.bits == 4


def test_default_smoothing_keeps_the_formula_or_plain_rounding(llama, tmp_path):
    report = quantize_model(recipe(llama, search_scale=False), tmp_path / "awq")
    assert {layer.method for layer in report.layers} <= {"smoothed", "plain rounding"}


def test_packed_words_are_read_back_by_the_definition(quantized):
    """Nibble k of word c is output channel 8 c + (0, 2, 4, 6, 1, 3, 5, 7)[k]."""
    name = "model.layers.0.mlp.up_proj"
    with safe_open(quantized.target / "model.safetensors", "pt") as file:
        packed = {part: file.get_tensor(f"{name}.{part}") for part in awq.SUFFIXES}
    weight = open_folder(quantized.target).linears(0)["up"].weight
    for nibble, channel in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        codes = packed["qweight"][:, 3] >> (4 * nibble) & 15
        assert torch.equal(codes, weight.codes[8 * 3 + channel].int())
