import json

import pytest

from mindpress.cli.lite import default_target

SMALL = ("--calib-dataset", "excerpt", "--calib-samples", "2", "--calib-seqlen", "64")


@pytest.mark.parametrize("command", ["auto-awq", "auto_awq"])
def test_dashes_and_underscores_are_the_same(run, model, tmp_path, command):
    work = tmp_path / "with_underscores"
    ran = run("lite", command, model, "--work_dir", work, "--w_group-size=64", "--dry_run",
              "--calib_dataset", "excerpt", "--search_scale", "True", "--json")  # fmt: skip
    plan = json.loads(ran.out)
    assert ran.code == 0
    assert plan["target"] == str(work)
    assert plan["bits_per_weight"] < 8.1
    assert not work.exists()


def test_a_plan_names_every_linear_and_writes_nothing(run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run("lite", "auto-awq", model, "--dry-run", "--calib-dataset", "excerpt")
    assert ran.code == 0
    assert "nothing was written" in ran.out
    assert "workspaces/tiny-llama-awq-w4" in ran.out
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert name in ran.out
    assert "note: --calib-seqlen 2048 is longer than the model's 512 tokens" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_stdout_is_the_json_alone_and_stderr_the_progress(spawn, model, tmp_path):
    ran = spawn("lite", "auto_awq", model, "--work-dir", "out", *SMALL, "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    assert report["target"] == "out"
    assert report["recipe"]["search_scale"] is None
    assert report["recipe"]["calibration"]["samples"] == 2
    assert len(report["layers"]) == 3
    assert sum(line.startswith("layer ") for line in ran.err.splitlines()) == 3
    assert (tmp_path / "out" / "report.html").is_file()
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    for layer in (report, *report["layers"]):
        assert layer.pop("seconds") > 0
    assert report["peak_memory_bytes"] > 0
    assert saved == {k: v for k, v in report.items() if k not in ("target", "peak_memory_bytes")}


def test_people_read_what_came_out_and_what_to_do_next(run, model, tmp_path):
    ran = run("lite", "auto-awq", model, "--work-dir", tmp_path / "out", *SMALL, "--quiet",
              "--rounding", "nearest")  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"Quantized {model} to 4 bits"
    assert any(line.startswith("size") and "6.5 MiB -> 3.2 MiB" in line for line in lines)
    assert lines[-1] == f"Next: mindpress validate {tmp_path / 'out'} --against {model}"


@pytest.mark.parametrize(("flags", "code", "words"), [
    (("--calib-dataset", "wikitxt2"), 3, "wikitext2"),
    (("--calib-dataset", "./none.txt"), 3, "none.txt"),
    (("--w-bits", "5"), 2, "5"),
    (("--w-group-size", "100"), 2, "100"),
    (("--max-shard-size", "much"), 2, "--max-shard-size much"),
    (("--calib-samples", "0"), 2, "--calib-samples 0"),
])  # fmt: skip
def test_a_wrong_value_is_refused_in_a_line_and_nothing_is_written(
    run, model, tmp_path, flags, code, words
):
    ran = run("lite", "auto-awq", model, "--work-dir", tmp_path / "out", *SMALL, *flags)
    assert (ran.code, ran.out) == (code, "")
    errors = [line for line in ran.err.splitlines() if line.startswith(("error:", "hint:"))]
    assert errors[0].startswith("error:")
    assert words in "".join(errors)
    assert len(errors) <= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "name"), [(".", "here"), ("org/model", "model")])
def test_the_default_folder_is_named_after_the_model(tmp_path, monkeypatch, given, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert default_target(given, "4").as_posix() == f"workspaces/{name}-awq-w4"
