"""What `--dry-run` says: a bound on memory, and that nothing was written."""

import json

import pytest

TEXT = ("--dataset", "excerpt", "--seqlen", "64", "--limit", "1", "--device", "cpu")
CALIBRATION = ("--calib-dataset", "excerpt", "--calib-samples", "2", "--calib-seqlen", "32")


@pytest.mark.parametrize("arguments", [
    ("validate", "MODEL", *TEXT, "-o", "OUT"),
    ("validate", "MODEL", "--against", "MODEL", *TEXT, "-o", "OUT"),
    ("compare", "MODEL", "MODEL/.", "--against", "MODEL", *TEXT, "-o", "OUT"),
    ("lite", "calibrate", "MODEL", *CALIBRATION, "--work-dir", "OUT"),
    ("lite", "auto-awq", "MODEL", *CALIBRATION, "--work-dir", "OUT"),
    ("convert", "MODEL", "--dst-path", "OUT"),
    ("chat", "MODEL"),
    ("bench", "throughput", "MODEL", "--input-len", "16", "-o", "OUT"),
    ("bench", "latency", "MODEL", "--input-len", "16", "--against", "MODEL"),
], ids=" ".join)  # fmt: skip
def test_a_plan_bounds_the_memory_and_writes_nothing(run, model, tmp_path, arguments):
    filled = [
        word.replace("MODEL", str(model)).replace("OUT", str(tmp_path / "out"))
        for word in arguments
    ]
    shown = run(*filled, "--dry-run")
    assert shown.code == 0, shown.err
    assert "peak memory" in shown.out
    assert "nothing was written" in shown.out
    said = json.loads(run(*filled, "--dry-run", "--json").out)
    weights = (model / "model.safetensors").stat().st_size
    assert weights / 20 < said["peak_memory_bytes"] < 2**30
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_takes_more_than_a_model_alone(run, model):
    alone, beside = (
        json.loads(run("validate", model, *more, *TEXT, "--dry-run", "--json").out)
        for more in ((), ("--against", model))
    )
    weights = (model / "model.safetensors").stat().st_size
    assert beside["peak_memory_bytes"] >= alone["peak_memory_bytes"] + weights


def test_the_plan_of_a_chat_is_that_of_what_it_loads(run, model):
    def said(*flags):
        return json.loads(run("chat", model, *flags, "--dry-run", "--json").out)

    plain, longer = said("--session-len", "64"), said("--session-len", "128")
    assert longer["cache_tokens"] == 2 * plain["cache_tokens"] == 128
    assert longer["cache_bytes"] == 2 * plain["cache_bytes"]
    most = ("--session-len", "512")
    floats, codes = said(*most), said(*most, "--quant-policy", "8")
    less = floats["cache_bytes"] - codes["cache_bytes"]
    assert less > floats["cache_bytes"] / 2
    saved = floats["peak_memory_bytes"] - codes["peak_memory_bytes"]
    assert saved == pytest.approx(1.1 * less, rel=0.01)


@pytest.mark.parametrize(("flags", "words"), [
    (("--session-len", "1000000"), "--session-len 1000000: the model's context holds"),
    (("--cache-memory", "10"), "--cache-memory"),
    (("--quant-policy", "3"), "--quant-policy 3"),
])  # fmt: skip
def test_a_plan_refuses_what_the_chat_would_refuse(run, model, flags, words):
    planned, done = (run("chat", model, *flags, *more) for more in (["--dry-run"], ["-p", "hi"]))
    assert planned.code == done.code == 2
    assert words in planned.err
    assert planned.err == done.err


def test_a_plan_refuses_weights_that_do_not_fit(run, model, monkeypatch):
    monkeypatch.setattr("mindpress.engine.loader.available_bytes", lambda: 1000)
    for arguments in (("chat", model), ("bench", "latency", model, "--input-len", "4")):
        ran = run(*arguments, "--dry-run")
        assert ran.code == 4
        assert "the weights take" in ran.err
