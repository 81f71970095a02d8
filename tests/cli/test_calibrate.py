"""`lite calibrate` and `lite kv-qparams` as a user runs them, on the demo's model."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

SMALL = ("--calib-dataset", "excerpt", "--calib-samples", "2", "--calib-seqlen", "64")


@pytest.fixture
def workspace(run, model, tmp_path):
    assert run("convert", model, "--dst-path", tmp_path / "ws", "-q").code == 0
    return tmp_path / "ws"


@pytest.fixture(scope="module")
def statistics(model, tmp_path_factory):
    from mindpress.lite.calibrate import calibrate_model
    from mindpress.lite.calibration import CalibrationRun
    from mindpress.lite.recipe import Calibration

    target = tmp_path_factory.mktemp("made") / "statistics"
    few = Calibration("excerpt", samples=2, length=64)
    calibrate_model(CalibrationRun(str(model), few, cache_only=True), target)
    return target


def files_of(workspace):
    return {
        file.relative_to(workspace): file.read_bytes()
        for file in workspace.rglob("*")
        if file.is_file()
    }


def test_people_read_what_was_found_and_what_to_do_next(run, model, tmp_path):
    target = tmp_path / "out"
    ran = run("lite", "calibrate", model, "--work-dir", target, *SMALL)
    assert ran.code == 0
    shown = dict(line.split("  ", 1) for line in ran.out.splitlines() if "  " in line)
    tensors = load_file(target / "statistics.safetensors")
    lows = [float(tensors[f"layers.{i}.keys.min"].min()) for i in range(3)]
    highs = [float(tensors[f"layers.{i}.keys.max"].max()) for i in range(3)]
    widest = max(range(3), key=lambda i: highs[i] - lows[i])
    assert shown["widest keys"].endswith(f"in layers.{widest}")
    assert shown["widest keys"].strip().startswith(f"{lows[widest]:.3g}"[:4])
    assert shown["tokens"].strip() == "128"
    assert {"folder", "layers", "widest values", "time", "peak memory"} <= shown.keys()
    assert ran.out.splitlines()[-1] == f"Next: mindpress lite kv-qparams {target} WORKSPACE"
    assert sum(line.startswith("layer ") for line in ran.err.splitlines()) == 3
    assert len(tensors) == 3 * (7 * 2 * 5 + 6)


def test_kv_before_the_model_records_the_cache_alone(run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run("lite", "calibrate", "kv", model, *SMALL, "--json")
    report = json.loads(ran.out)
    assert report["target"] == "workspaces/tiny-llama-statistics"
    assert report["header"]["linears"] == {}
    assert report["tokens"] == 128
    saved = json.loads((tmp_path / report["target"] / "statistics.json").read_text())
    assert saved == report["header"]


def test_a_plan_writes_nothing(run, model, workspace, tmp_path):
    before = files_of(tmp_path)
    ran = run("lite", "calibrate", "kv", model, "--work-dir", tmp_path / "out", *SMALL,
              "--workspace", workspace, "--dry-run")  # fmt: skip
    assert ran.code == 0
    assert "nothing was written" in ran.out
    assert "2 samples of 64 tokens" in ran.out
    assert files_of(tmp_path) == before


def test_a_workspace_gets_its_scales_in_the_same_run(run, model, workspace, tmp_path):
    target = tmp_path / "out"
    inner = workspace / "triton_models" / "weights"
    ran = run("lite", "calibrate", "kv", model, "--work-dir", target, *SMALL,
              "--workspace", inner, "--kv-bits", "8", "--granularity", "head")  # fmt: skip
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == f"Next: mindpress chat {workspace}"
    assert "quant_policy = 8" in (inner / "config.ini").read_text()


def test_both_ways_to_a_workspace_write_the_same(run, model, workspace, statistics, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(workspace, other, symlinks=True)
    flags = ("--kv-bits", "8", "--kv_sym", "True", "--granularity", "head")
    assert run("lite", "calibrate", "kv", model, "--work-dir", tmp_path / "s", *SMALL,
               "--workspace", workspace, *flags).code == 0  # fmt: skip
    ran = run("lite", "kv_qparams", statistics, other, *flags, "--num_tp", "1", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["workspace"] == str(other)
    assert found["spec"] == {"bits": 8, "symmetric": True, "granularity": "head"}
    assert files_of(other) == files_of(workspace)


@pytest.mark.parametrize(("flags", "code", "words"), [
    (("--num-tp", "2"), 2, "--num-tp 2"),
    (("--kv-bits", "3"), 2, "--kv-bits 3"),
    (("--granularity", "row"), 2, "row"),
])  # fmt: skip
def test_scales_that_cannot_be_are_refused(run, workspace, statistics, flags, code, words):
    before = files_of(workspace)
    ran = run("lite", "kv-qparams", statistics, workspace, *flags)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err.splitlines()[0]
    assert files_of(workspace) == before


def test_statistics_that_are_none_are_refused(run, workspace, tmp_path):
    ran = run("lite", "kv-qparams", tmp_path, workspace)
    assert ran.code == 3
    assert "statistics.json" in ran.err
    assert "mindpress lite calibrate kv MODEL" in ran.err


def test_a_workspace_of_another_model_is_refused_before_calibrating(
    run, model, workspace, statistics, tmp_path
):
    other = tmp_path / "model"
    shutil.copytree(model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.self_attn.v_proj.weight"] *= 3
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    ran = run("lite", "calibrate", "kv", other, "--work-dir", tmp_path / "out", *SMALL,
              "--workspace", workspace)  # fmt: skip
    assert ran.code == 3
    assert "another model" in ran.err
    assert not list(tmp_path.glob("*out*"))
    assert run("convert", other, "--dst-path", tmp_path / "ws2", "-q").code == 0
    ran = run("lite", "kv-qparams", statistics, tmp_path / "ws2")
    assert (ran.code, "another model" in ran.err) == (3, True)


@pytest.mark.parametrize(("words", "code", "said"), [
    (("kv",), 2, "no model"),
    (("values", "m"), 2, "calibrate values"),
    (("kv", "none/at/all"), 3, "none/at/all"),
    (("kv", "m", "--kv-bits", "4"), 2, "--workspace"),
    (("kv", "m", "--kv-sym"), 2, "--workspace"),
    (("kv", "m", "--workspace", "nowhere"), 3, "nowhere"),
    (("kv", "m", "--calib-samples", "0"), 2, "--calib-samples 0"),
])  # fmt: skip
def test_a_wrong_request_is_refused_in_a_line(run, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    ran = run("lite", "calibrate", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_says_how_to_go_on_and_does(spawn, model, tmp_path):
    """Ctrl-C after the first layer; the same command ends with the whole statistics."""
    command = ("lite", "calibrate", model, "--work-dir", "out", "--calib-dataset", "excerpt",
               "--calib-samples", "96", "--calib-seqlen", "256", "--device", "cpu")  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "mindpress", *map(str, command)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("layer 1 "):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "run the same command to go on" in said
    assert not (tmp_path / "out").exists()
    again = spawn(*command)
    assert again.code == 0
    assert "going on after layer" in again.err
    assert len(load_file(tmp_path / "out" / "statistics.safetensors")) == 3 * 76
