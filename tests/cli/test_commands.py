"""convert, inspect, validate and check-env, one after another on the same model."""

import json

import pytest

import mindpress


@pytest.fixture
def workspace(run, model, tmp_path):
    assert run("convert", model, "--dst-path", tmp_path / "ws", "-q").code == 0
    return tmp_path / "ws"


def test_convert_says_what_it_wrote(run, model, tmp_path):
    ran = run("convert", model, "--dst_path", tmp_path / "ws")
    assert ran.code == 0
    assert f"workspace  {tmp_path / 'ws'}" in ran.out
    assert "TurboMind 0.5 (config.ini)" in ran.out
    assert ran.out.endswith(f"Next: mindpress chat {tmp_path / 'ws'}\n")
    assert (tmp_path / "ws" / "triton_models" / "weights" / "config.ini").is_file()


def test_lmdeploys_form_names_the_model_first(run, model, tmp_path):
    ran = run("convert", "llama2", model, "--dst-path", tmp_path / "ws", "--json")
    assert json.loads(ran.out)["target"] == str(tmp_path / "ws")
    config = tmp_path / "ws" / "triton_models" / "weights" / "config.ini"
    assert "llama2" in config.read_text()


def test_a_planned_conversion_writes_nothing(run, model, tmp_path):
    flags = ("--dst-path", tmp_path / "ws", "--tm-version", "0.6", "--dry-run")
    assert json.loads(run("convert", model, *flags, "--json").out)["config"] == "config.yaml"
    assert "nothing was written" in run("convert", model, *flags).out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--tp", "3"), ("--tp", "8"), ("--tm-version", "0.9")])
def test_a_conversion_that_cannot_be_is_refused(run, model, tmp_path, flags):
    ran = run("convert", model, "--dst-path", tmp_path / "ws", *flags)
    assert ran.code in (2, 3)
    assert flags[1] in ran.err.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


def test_inspect_tells_a_folder_from_a_workspace(run, model, workspace):
    folder = json.loads(run("inspect", model, "--json").out)
    made = json.loads(run("inspect", workspace, "--json").out)
    assert (folder["kind"], made["kind"]) == ("model folder", "workspace")
    assert folder["parameters"] == 3409664
    assert made["tp"] == 1
    shown = run("inspect", model).out
    assert "3,409,664" in shown
    assert "6.5 MiB" in shown


def test_inspect_verify_compares_every_hash(run, model, workspace):
    ran = run("inspect", workspace, "--verify", "--json")
    count = sum(file.is_file() for file in workspace.rglob("*")) - 1
    assert (ran.code, json.loads(ran.out)["verified"]) == (0, count)
    norm = workspace / "triton_models" / "weights" / "norm.weight"
    whole = norm.read_bytes()
    norm.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert run("inspect", workspace).code == 0
    ran = run("inspect", workspace, "--verify")
    assert (ran.code, "weights/norm.weight (changed)" in ran.err) == (3, True)
    norm.write_bytes(whole)
    ran = run("inspect", model, "--verify")
    assert (ran.code, "nothing is known" in ran.err) == (3, True)


def test_inspect_names_what_is_wrong_and_is_three(run, workspace):
    weights = workspace / "triton_models" / "weights"
    (weights / "norm.weight").unlink()
    ran = run("inspect", workspace)
    assert ran.code == 3
    assert "norm.weight" in ran.err
    assert ran.err.startswith("error: ")
    assert json.loads(run("inspect", workspace, "--json").out)["problems"]


def test_validate_shows_a_table_and_saves_a_page(run, model, workspace, tmp_path):
    flags = ("--against", model, "--dataset", "excerpt", "--seqlen", "64", "--limit", "2")
    ran = run("validate", workspace, *flags, "-o", tmp_path / "v")
    assert ran.code == 0
    rows = {line.split("  ")[0] for line in ran.out.splitlines()}
    assert {"perplexity, excerpt", "KL divergence, excerpt", "same top token, excerpt",
            "size on disk", "bits per weight", "reading, tokens/s", "writing, tokens/s",
            "peak memory"} <= rows  # fmt: skip
    assert (tmp_path / "v" / "validation.html").is_file()
    assert str(tmp_path / "v" / "validation.html") in ran.out


def test_a_validation_as_json_is_the_saved_one(run, model, tmp_path):
    flags = ("--dataset", "excerpt", "--seqlen", "64", "--limit", "2", "-o", tmp_path / "v")
    ran = run("validate", model, *flags, "--json")
    figures = json.loads(ran.out)
    assert figures["original"] is None
    (text,) = figures["datasets"]
    assert (text["dataset"], text["length"], text["windows"]) == ("excerpt", 64, 2)
    saved = json.loads((tmp_path / "v" / "validation.json").read_text())
    assert saved["datasets"] == figures["datasets"]


def test_check_env_knows_this_machine(run):
    ran = run("check_env", "--json")
    found = json.loads(ran.out)
    assert found["mindpress"] == mindpress.__version__
    assert {"python", "torch", "CPU", "memory", "GPU"} <= found.keys()
    assert run("check-env").out.startswith("mindpress ")
