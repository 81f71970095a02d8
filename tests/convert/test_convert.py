"""What a workspace holds is what the folder held: tensors, shape and side files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_awq import quantize_folder
from tiny_coded import code_folder
from tiny_models import edit_config, save_tiny

from mindpress.convert.convert import convert_model, plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError, NumericError, ResourceError
from mindpress.events import Advanced, Finished, Note, Started
from mindpress.formats.compressed_tensors import CompressedLayout
from mindpress.formats.gptq import GptqLayout
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.models.shape import ModelShape
from mindpress.sources.folder import open_folder
from mindpress.sources.workspace import open_workspace

FAMILIES = {
    "llama": {"attention_bias": True},
    "mistral": {},
    "qwen2": {},
    "internlm2": {},
    "internlm3": {},
    "phi3": {},
}
# Heads as the engines have them; 384 is no multiple of 128 x tp 2; 101 tokens are odd.
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 101,
}


def save(family, folder, **overrides):
    return save_tiny(family, folder, **(SIZES | FAMILIES[family] | overrides))


def same_linear(found, expected):
    """Equal but for the inner width, where zeros may follow, and biases of zero for none."""
    rows, columns = dense(expected.weight).shape
    weight = dense(found.weight)
    assert torch.equal(weight[:rows, :columns], dense(expected.weight))
    assert weight.count_nonzero() == dense(expected.weight).count_nonzero()
    if isinstance(expected.weight, QuantizedWeight):
        assert torch.equal(found.weight.codes[:rows, :columns], expected.weight.codes)
    if expected.bias is None:
        assert found.bias is None or not found.bias.any()
    else:
        assert torch.equal(found.bias, expected.bias)


def dense(weight):
    return weight.dequantize() if isinstance(weight, QuantizedWeight) else weight


def same_model(folder: Path, target: Path, dtype: torch.dtype) -> None:
    source, workspace = open_folder(folder), open_workspace(target)
    for layer in range(source.shape.layers):
        found = workspace.linears(layer)
        for role, linear in source.linears(layer).items():
            same_linear(found[role], linear)
        norms = workspace.norms(layer)
        for name, norm in source.norms(layer).items():
            assert torch.equal(norms[name], norm.to(dtype))
    assert torch.equal(workspace.embedding(), source.embedding().to(dtype))
    assert torch.equal(workspace.head(), source.head().to(dtype))
    assert torch.equal(workspace.final_norm(), source.final_norm().to(dtype))
    same_shape(workspace.shape, source.shape)


def same_shape(found: ModelShape, expected: ModelShape) -> None:
    assert found.inner >= expected.inner
    assert (found.rope.kind, found.rope.theta) == (expected.rope.kind, expected.rope.theta)
    plain = replace(
        expected,
        inner=found.inner,
        tied=False,
        windows=found.windows,
        biases=found.biases,
        rope=found.rope,
        dtype=found.dtype,
        activation="silu",
    )
    assert found == plain


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("version", ["0.5", "0.6"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "awq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_workspace_holds_what_the_folder_held(family, kind, version, tp, tmp_path):
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float16
    folder = save(family, tmp_path / "model", dtype=dtype)
    if kind == "awq":
        quantize_folder(folder)
    target = tmp_path / "workspace"
    report = convert_model(Conversion(str(folder), target, tp=tp, tm_version=version))
    assert report.weight_type == ("int4" if kind == "awq" else kind)
    same_model(folder, target, dtype)


@pytest.mark.parametrize("layout", [GptqLayout, CompressedLayout])
def test_4_bit_folders_of_other_tools(layout, tmp_path):
    folder = save("llama", tmp_path / "model")
    code_folder(folder, layout(QuantSpec(4, 128)))
    report = convert_model(Conversion(str(folder), tmp_path / "workspace"))
    assert report.weight_type == "int4"
    same_model(folder, tmp_path / "workspace", torch.float16)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_heads_of_64_and_a_tied_head_go_into_the_newer_layout(tp, tmp_path):
    folder = save_tiny(
        "llama", tmp_path / "model", hidden_size=256, head_dim=64, intermediate_size=200,
        num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    report = convert_model(Conversion(str(folder), tmp_path / "workspace", tp=tp))
    assert report.config == "config.yaml"
    same_model(folder, tmp_path / "workspace", torch.float16)
    assert open_workspace(tmp_path / "workspace").shape.inner == -(-200 // (128 * tp)) * 128 * tp


@pytest.mark.parametrize(("version", "kv_heads"), [("0.5", 2), ("0.6", 1)])
def test_rotated_and_other_channels_of_a_head_come_back(version, kv_heads, tmp_path):
    folder = save(
        "phi3", tmp_path / "model", partial_rotary_factor=0.5, num_key_value_heads=kv_heads
    )
    convert_model(Conversion(str(folder), tmp_path / "workspace", tm_version=version))
    same_model(folder, tmp_path / "workspace", torch.float16)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_rope_parameters_come_back(rope, tmp_path):
    folder = save("llama", tmp_path / "model")
    edit_config(folder, rope_parameters=None, rope_theta=5e5, rope_scaling=rope)
    convert_model(Conversion(str(folder), tmp_path / "workspace"))
    found, expected = open_workspace(tmp_path / "workspace").shape, open_folder(folder).shape
    assert (found.rope.kind, found.rope.theta) == (rope["rope_type"], 5e5)
    assert found.max_length == expected.max_length
    for key in rope.keys() - {"rope_type"}:
        assert found.rope.parameters[key] == expected.rope.parameters[key]


def test_32_bit_floats_become_float16(tmp_path):
    folder = save("llama", tmp_path / "model", dtype=torch.float32)
    report = convert_model(Conversion(str(folder), tmp_path / "workspace"))
    assert report.weight_type == "float16"
    stored = open_folder(folder).linears(0)["down"].weight
    found = open_workspace(tmp_path / "workspace").linears(0)["down"].weight
    assert torch.equal(found, stored.half())


def test_dtype_is_taken_from_the_flag(tmp_path):
    folder = save("llama", tmp_path / "model")
    settings = Conversion(str(folder), tmp_path / "workspace", dtype="bfloat16")
    assert convert_model(settings).weight_type == "bfloat16"
    same_shape(open_workspace(tmp_path / "workspace").shape, open_folder(folder).shape)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_values_that_are_not_finite_are_named_and_nothing_is_left(name, value, tmp_path):
    folder = save("llama", tmp_path / "model")
    put(folder, name, value)
    with pytest.raises(NumericError, match=f"`{name}`: NaN or infinite"):
        convert_model(Conversion(str(folder), tmp_path / "out" / "workspace"))
    assert list(tmp_path.glob("out/*")) == []


def test_infinite_scales_are_named(tmp_path):
    folder = quantize_folder(save("llama", tmp_path / "model"))
    put(folder, "model.layers.0.mlp.up_proj.scales", float("inf"))
    with pytest.raises(NumericError, match=r"`model.layers.0.mlp.up_proj.scales`"):
        convert_model(Conversion(str(folder), tmp_path / "workspace"))


def test_a_value_beyond_float16_is_named_with_the_way_out(tmp_path):
    folder = save("llama", tmp_path / "model", dtype=torch.bfloat16)
    put(folder, "model.norm.weight", 1e6)
    with pytest.raises(NumericError, match=r"`model\.norm\.weight` reaches 999424") as caught:
        convert_model(Conversion(str(folder), tmp_path / "workspace", dtype="float16"))
    assert caught.value.hint == "use --dtype bfloat16"


def test_progress_is_told_layer_by_layer(tmp_path):
    folder = save("llama", tmp_path / "model")
    events = []
    convert_model(Conversion(str(folder), tmp_path / "workspace"), events.append)
    assert [type(e) for e in events if not isinstance(e, Note)] == [
        Started, Advanced, Advanced, Finished,
    ]  # fmt: skip


def test_tokenizer_files_are_copied_and_reports_are_not(tmp_path):
    folder = save("llama", tmp_path / "model")
    for name in ("report.json", "validation.json", "notes.txt", "merges.txt", "modeling.py"):
        (folder / name).write_text("{}")
    convert_model(Conversion(str(folder), tmp_path / "workspace"))
    copied = {
        file.name for file in open_workspace(tmp_path / "workspace").tokenizer_folder.iterdir()
    }
    assert copied == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "merges.txt", "modeling.py",
    }  # fmt: skip


def test_a_plan_writes_nothing_and_knows_the_bytes(tmp_path):
    folder = save("llama", tmp_path / "model")
    settings = Conversion(str(folder), tmp_path / "out" / "workspace", tp=2)
    plan = plan_conversion(settings)
    assert not (tmp_path / "out").exists()
    report = convert_model(settings)
    weights = report.target / "triton_models" / "weights"
    sizes = {file.name: file.stat().st_size for file in weights.iterdir()}
    assert sizes.pop("config.ini")
    assert sizes == plan.files
    assert plan.as_dict()["bytes"] == plan.bytes == sum(sizes.values())


def test_an_existing_workspace_is_only_replaced_when_asked(tmp_path):
    folder = save("llama", tmp_path / "model")
    settings = Conversion(str(folder), tmp_path / "workspace")
    convert_model(settings)
    with pytest.raises(ConfigError, match="not empty"):
        convert_model(settings)
    convert_model(replace(settings, tm_version="0.6", overwrite=True))
    assert open_workspace(tmp_path / "workspace").config.layout == "yaml"


def test_the_model_itself_is_never_replaced(tmp_path):
    folder = save("llama", tmp_path / "old" / "model")
    with pytest.raises(ConfigError, match="it is not replaced"):
        convert_model(Conversion(str(folder), folder, overwrite=True))
    (tmp_path / "old" / "triton_models" / "weights").mkdir(parents=True)
    (tmp_path / "old" / "triton_models" / "weights" / "config.ini").touch()
    with pytest.raises(ConfigError, match="holds the model"):
        convert_model(Conversion(str(folder), tmp_path / "old", overwrite=True))


def test_a_full_disk_is_told_and_leaves_no_output(tmp_path, monkeypatch):
    folder = save("llama", tmp_path / "model")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ResourceError, match="No space left"):
        convert_model(Conversion(str(folder), tmp_path / "out" / "workspace"))
    # What is written so far is hidden: the same command goes on when there is room.
    assert [file.name for file in tmp_path.glob("out/*")] == [".workspace.partial"]


def put(folder: Path, name: str, value: float) -> None:
    """One bad value in a tensor of a folder."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[7] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
