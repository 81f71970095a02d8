"""`mindpress lite auto-gptq`, and --format of it and of auto-awq, as a user runs them."""

import json
from pathlib import Path

import pytest

from mindpress.cli.lite import default_target

SMALL = ("--calib-dataset", "excerpt", "--calib-samples", "2", "--calib-seqlen", "64")


@pytest.mark.parametrize("command", ["auto-gptq", "auto_gptq"])
def test_a_plan_is_symmetric_compensated_gptq(run, model, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    ran = run("lite", command, model, "--dry-run", *SMALL, "--json", "-q")
    plan = json.loads(ran.out)
    assert ran.code == 0
    assert plan["target"] == "workspaces/tiny-llama-gptq-w4"
    assert plan["format"] == "GPTQ"
    assert plan["readers"][:2] == ["vLLM", "LMDeploy"]
    assert plan["notes"] == []
    assert default_target("org/model", "3", "gptq").as_posix() == "workspaces/model-gptq-w3"
    assert list(tmp_path.iterdir()) == []


def test_people_read_the_format_and_who_reads_it(run, model, tmp_path):
    ran = run("lite", "auto-gptq", model, "--work-dir", tmp_path / "out", *SMALL, "--w_sym",
              "False", "--json")  # fmt: skip
    report = json.loads(ran.out)
    assert (ran.code, report["format"]) == (0, "GPTQ v2")
    recipe = report["recipe"]
    assert (recipe["algorithm"], recipe["symmetric"]) == ("gptq", False)
    assert recipe["rounding"] == "compensated"
    assert set(report["layers"][0]["candidates"]) == {"plain rounding", "compensated"}
    assert "vLLM since June 2026 reads GPTQ of 4 and 8 bits without zero points only" in ran.err
    shown = run("inspect", tmp_path / "out")
    assert (shown.code, "GPTQ v2" in shown.out) == (0, True)


def test_a_plan_of_three_bits_says_where_they_go(run, model):
    ran = run("lite", "auto-awq", model, "--w-bits", "3", "--dry-run", *SMALL)
    assert ran.code == 0
    assert "compressed-tensors pack-quantized, for transformers" in ran.out
    assert "add --w-sym" in ran.err


@pytest.mark.parametrize("bits", ["2", "3"])
@pytest.mark.parametrize("command", ["auto-awq", "auto-gptq"])
def test_awq_of_low_bits_is_refused_before_anything_is_read(run, tmp_path, command, bits):
    """Before the model is looked for: there is none."""
    ran = run("lite", command, "./nowhere", "--format", "awq", "--w-bits", bits, *SMALL,
              "--work-dir", tmp_path / "out")  # fmt: skip
    assert (ran.code, ran.out) == (2, "")
    assert f"--w-bits {bits}: the format awq holds 4 or 8 bits" in ran.err
    assert "hint: use --format gptq or compressed-tensors, or --w-bits 4" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--format", "gguf"), "gguf"),
        (("--search-scale",), "--search-scale"),
        (("--w-bits", "5"), "--w-bits 5"),
    ],
)
def test_what_gptq_does_not_have_is_refused(run, model, tmp_path, flags, words):
    ran = run("lite", "auto-gptq", model, "--work-dir", tmp_path / "out", *SMALL, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert list(tmp_path.iterdir()) == []


def test_workspaces_take_four_bits_of_gptq_and_no_others(run, model, tmp_path):
    for bits, code in (("4", 0), ("3", 3)):
        made = tmp_path / f"gptq-{bits}"
        quantized = run("lite", "auto-gptq", model, "--work-dir", made, "--w-bits", bits,
                        "--rounding", "nearest", *SMALL, "-q")  # fmt: skip
        assert quantized.code == 0
        target = tmp_path / f"workspace-{bits}"
        ran = run("convert", made, "--dst-path", target, "--model-format", "gptq")
        assert ran.code == code, ran.err
        assert target.exists() == (code == 0)
    assert "gptq-3: 3-bit codes; TurboMind holds 4-bit ones" in ran.err
    assert (
        "hint: quantize with `lite auto-awq` in 4 bits, or leave it as it is: mindpress chat"
        in ran.err
    )
    named = run("convert", tmp_path / "gptq-4", "--dst-path", tmp_path / "w", "--model-format",
                "awq")  # fmt: skip
    assert named.code == 2
    assert "--model-format awq: " in named.err
    assert "holds GPTQ" in named.err
    assert "hint: use --model-format gptq, or leave it out" in named.err


def test_low_bits_are_inspected_compared_and_talked_to(run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, bits in (("auto-awq", 3), ("auto-gptq", 2)):
        folder = f"{command}-{bits}"
        made = run("lite", command, model, "--work-dir", folder, "--w-bits", bits, "--rounding",
                   "nearest", *SMALL, "-q")  # fmt: skip
        assert made.code == 0, made.err
        assert json.loads(run("inspect", folder, "--json").out)["dtype"] == f"int{bits}"
        talked = run("chat", folder, "--prompt", "Hello", "--max-new-tokens", "2")
        assert talked.code == 0, talked.err
        assert "12 of 12 linears are floats in memory" in talked.err
    Path("text.txt").write_text("The river is long and the water is cold. " * 40)
    ran = run("compare", "auto-awq-3", "auto-gptq-2", "--against", model, "--dataset", "text.txt",
              "--seqlen", "64", "--limit", "2", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    three, two = json.loads(ran.out)["models"][:2]
    assert three["figures"]["bits_per_weight"] > two["figures"]["bits_per_weight"]
    divergence = [found["datasets"][0]["kl_divergence"] for found in (three, two)]
    assert 0 < divergence[0] < divergence[1]


def test_ctrl_c_says_how_to_go_on(run, model, tmp_path, monkeypatch):
    def stop(*_arguments, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("mindpress.lite.quantize.quantize_model", stop)
    ran = run("lite", "auto_gptq", model, "--work-dir", tmp_path / "out", *SMALL)
    assert ran.code == 130
    assert "run the same command to go on where it stopped" in ran.err


def test_more_bits_where_they_matter(run, model, tmp_path):
    asked = ("lite", "auto-awq", model, "--target-bpw", "6.5", "--rounding", "nearest", *SMALL)
    ran = run(*asked, "--dry-run")
    assert ran.code == 0, ran.err
    assert "4 to 16 bits, at most 6.5 on average" in ran.out
    assert "4 or 8 or 16" in ran.out
    made = run(*asked, "--work-dir", tmp_path / "mixed")
    assert made.code == 0, made.err
    assert "measure sensitivity" in made.err
    assert "of linears alone 6." in made.out
    told = json.loads(run("inspect", tmp_path / "mixed", "--json").out)["dtype"]
    assert told == "int4 and int8, 1 in float16"
    card = (tmp_path / "mixed" / "README.md").read_text()
    assert "--target-bpw 6.5" in card
    assert "| bits of the " in card


def test_a_wrong_flag_is_told_before_an_occupied_folder(run, model, tmp_path):
    (tmp_path / "mine.txt").write_text("do not lose me")
    for flags in (("--w-bits", "5"), ("--max-shard-size", "big"), ("--w-group-size", "0")):
        ran = run("lite", "auto-gptq", model, "--work-dir", tmp_path, *flags)
        assert ran.code == 2
        assert flags[0] in ran.err
    assert "not empty" in run("lite", "auto-gptq", model, "--work-dir", tmp_path, *SMALL).err
