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
