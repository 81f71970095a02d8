"""`mindpress bench` on the small model that comes with the package."""

import json
import shlex

import pytest

from mindpress.engine.bench_figures import FIGURES

SHORT = ("--input-len", "12", "--output-len", "3", "--repeats", "2", "--warmup", "0")


def test_throughput_beside_transformers_shows_and_saves_all_figures(run, model, tmp_path):
    folder = tmp_path / "b"
    ran = run("bench", "throughput", model, "--against", f"hf:{model}", *SHORT,
              "--prompts", "4", "--concurrency", "2", "-o", folder)  # fmt: skip
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == f"{model} (float32)"
    assert lines[1].startswith(f"against hf:{model} (transformers ")
    assert "4 requests, 2 at once" in lines
    head = next(line for line in lines if "times better" in line)
    rows = lines[lines.index(head) + 1 :][: len(FIGURES)]
    assert [row.split("  ")[0] for row in rows][:2] == ["prefill, tokens/s", "decode, tokens/s"]
    assert all(row.count("x (") == 1 for row in rows)
    assert lines[-1].endswith(f"report: {folder / 'bench.html'}")
    saved = json.loads((folder / "bench.json").read_text())
    (load,) = saved["loads"]
    names = {figure.name for figure in FIGURES}
    assert set(load["model"]["figures"]) == set(load["against"]["figures"]) == names
    assert set(load["times"]) == names
    first = FIGURES[0].name
    ours, theirs = (load[side]["runs"] for side in ("model", "against"))
    ratios = sorted(a["figures"][first] / b["figures"][first]
                    for a, b in zip(ours, theirs, strict=True))  # fmt: skip
    assert load["times"][first]["least"] == pytest.approx(ratios[0])
    assert load["times"][first]["most"] == pytest.approx(ratios[-1])
    assert saved["settings"]["engine"]["max_batch_size"] == 2
    assert saved["settings"]["engine"]["session_len"] == 15
    assert {"torch", "transformers", "mindpress", "python"} <= saved["versions"].keys()
    assert saved["device"]
    assert saved["threads"] >= 1
    assert "run 4" in ran.err or "bench: 4 runs in" in ran.err


def test_memory_held_is_that_of_the_weights_and_more(spawn, model, tmp_path):
    # In a process of its own: in this one, memory that earlier tests gave back comes and goes.
    ran = spawn("bench", "throughput", model, "--against", f"hf:{model}", *SHORT, "-o", tmp_path)
    assert ran.code == 0
    saved = json.loads((tmp_path / "bench.json").read_text())
    stored = (model / "model.safetensors").stat().st_size
    for side in ("model", "against"):
        assert saved[side]["held_bytes"] > stored  # float32 of float16


def test_latency_is_measured_for_every_batch_size(run, model):
    command = ("bench", "latency", model, *SHORT, "--batch-sizes", "1,3", "--seed", "5")
    ran = run(*command, "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert [load["at_once"] for load in found["loads"]] == [1, 3]
    assert [load["answer_tokens"] for load in found["loads"]] == [3, 9]
    assert found["against"] is None
    assert found["loads"][0]["times"] is None
    assert len(found["loads"][0]["model"]["between_tokens_ms"]) == 99
    # The command that is kept gives the same settings again.
    again = run(*shlex.split(found["command"])[1:])
    assert again.code == 0
    repeated = json.loads(again.out)
    assert repeated["settings"] == found["settings"]
    assert repeated["command"] == found["command"]


def test_prompts_of_a_text_and_another_model_of_ours(run, model, tmp_path):
    text = tmp_path / "some.jsonl"
    text.write_text(json.dumps({"text": "The history of the city is long. " * 40}) + "\n")
    ran = run("bench", "throughput", model, *SHORT, "--against", model, "--dataset", text,
              "--range-ratio", "0.5", "--prompts", "3", "--concurrency", "3", "-q")  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    assert f"against {model} (mindpress, float32)" in ran.out


@pytest.mark.parametrize(("arguments", "words"), [
    (("latency", "--batch-sizes", "1,x"), "--batch-sizes 1,x"),
    (("latency", "--batch-sizes", "0"), "--batch-sizes 0"),
    (("latency", "--batch-sizes", "4,4"), "--batch-sizes 4,4"),
    (("latency", "--input-len", "400", "--output-len", "200"), "--input-len 400, --output-len 200"),
    (("throughput", "--prompts", "0"), "0 requests"),
    (("throughput", "--max-batch-size", "2"), "--max-batch-size 2"),
    (("throughput", "--session-len", "100"), "--session-len 100"),
    (("throughput", "--cache-max-entry-count", "1.5"), "--cache-max-entry-count 1.5"),
    (("throughput", "--cache-memory", "much"), "--cache-memory"),
    (("throughput", "--quant-policy", "3"), "--quant-policy 3"),
    (("throughput", "--range-ratio", "1"), "--range-ratio 1"),
])  # fmt: skip
def test_what_cannot_be_measured_is_two_and_said_at_once(run, model, arguments, words):
    name, *flags = arguments
    ran = run("bench", name, model, *flags)
    assert (ran.code, ran.out) == (2, "")
    error, *hints = ran.err.splitlines()
    assert error.startswith("error: ")
    assert words in error
    assert all(line.startswith("hint: ") for line in hints)


@pytest.mark.parametrize("flags", [
    ("./nowhere",), ("MODEL", "--against", "./nowhere"), ("MODEL", "--against", "hf:./nowhere"),
    ("MODEL", "--against", "hf:EMPTY"), ("MODEL", "--dataset", "nosuchset"),
])  # fmt: skip
def test_what_is_not_there_is_three(run, model, tmp_path, flags):
    given = [flag.replace("MODEL", str(model)).replace("EMPTY", str(tmp_path)) for flag in flags]
    ran = run("bench", "throughput", *given)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("error: ")
    assert "hint: " in ran.err
