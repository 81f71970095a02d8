"""`mindpress lite smooth-quant`, as a user runs it."""

import json

import pytest
import torch
from safetensors.torch import load_file

SMALL = ("--calib-dataset", "excerpt", "--calib-samples", "4", "--calib-seqlen", "64")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    from mindpress.cli.app import main

    target = tmp_path_factory.mktemp("w8a8") / "out"
    with pytest.raises(SystemExit) as stop:
        main(["lite", "smooth_quant", str(model), "--work-dir", str(target), *SMALL, "--quiet"])
    assert not stop.value.code
    return target


def test_the_folder_is_what_vllm_reads_as_w8a8(folder):
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "int-quantized")
    (scheme,) = config["config_groups"].values()
    assert scheme["targets"] == ["Linear"]
    expected = {"num_bits": 8, "type": "int", "symmetric": True}
    per_channel = expected | {"strategy": "channel", "dynamic": False}
    assert per_channel.items() <= scheme["weights"].items()
    per_token = expected | {"strategy": "token", "dynamic": True}
    assert per_token.items() <= scheme["input_activations"].items()
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    assert tensors[f"{name}.weight"].dtype == torch.int8
    assert tensors[f"{name}.weight_scale"].shape == (tensors[f"{name}.weight"].shape[0], 1)
    report = json.loads((folder / "report.json").read_text())
    stored = sum(tensor.nbytes for tensor in tensors.values())
    assert report["bytes_after"] == stored
    assert "mindpress lite smooth_quant" in (folder / "README.md").read_text()


def test_it_is_validated_with_int8_activations(run, folder, model, tmp_path):
    ran = run("validate", folder, "--against", model, "--dataset", "excerpt", "--seqlen", "128",
              "--limit", "8", "--no-caches", "--json", "-o", tmp_path / "v")  # fmt: skip
    assert ran.code == 0
    report = json.loads(ran.out)
    assert "int8 activations" in json.dumps(report)
    (score,) = report["datasets"]
    assert 0 < score["kl_divergence"] < 1e-3


def test_a_plan_writes_nothing(run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run("lite", "smooth-quant", model, "--dry-run", *SMALL)
    assert ran.code == 0
    assert "workspaces/tiny-llama-w8a8" in ran.out
    assert "int8 activations" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_it_cannot_become_a_workspace(run, folder, tmp_path):
    ran = run("convert", folder, "--dst-path", tmp_path / "ws")
    assert ran.code != 0
    assert "8-bit codes; TurboMind holds 4-bit ones" in ran.err
    assert not (tmp_path / "ws").exists()
