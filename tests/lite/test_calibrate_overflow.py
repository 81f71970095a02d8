"""Calibration of models whose numbers are no numbers: named and refused, or clamped aloud."""

import pytest
import torch

from mindpress.calib.statistics_file import load_statistics
from mindpress.errors import NumericError
from mindpress.events import Note
from mindpress.lite.calibrate import calibrate_model
from tests.damaged_weights import damage
from tests.short_runs import run_of
from tests.tiny_models import save_tiny


@pytest.fixture
def overflowing(tmp_path):
    """A model whose second layer's MLP overflows even 32 bits."""
    folder = save_tiny("llama", tmp_path / "m", dtype=torch.float32, num_hidden_layers=3)
    damage(folder, **{"model.layers.1.mlp.up_proj.weight": lambda t: t * 1e30,
                      "model.layers.1.mlp.down_proj.weight": lambda t: t * 1e30})  # fmt: skip
    return folder


@pytest.mark.parametrize("cache_only", [False, True])
def test_activations_that_overflow_are_named_and_refused(overflowing, tmp_path, cache_only):
    with pytest.raises(NumericError, match=r"layers.1: the output of mlp\.down_proj") as caught:
        calibrate_model(run_of(overflowing, cache_only=cache_only), tmp_path / "out")
    assert "--clamp" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cache_only", [False, True])
@pytest.mark.parametrize(("part", "named"), [
    ("k_proj", r"the output of self_attn\.k_proj"), ("k_norm", "keys"),
])  # fmt: skip
def test_what_makes_keys_overflow_is_named(tmp_path, part, named, cache_only):
    folder = save_tiny("qwen3", tmp_path / "m", dtype=torch.float32)
    weight = f"model.layers.0.self_attn.{part}.weight"
    damage(folder, **{weight: lambda t: t / t.abs().max() * 3e38})
    with pytest.raises(NumericError, match=f"layers.0: {named}: "):
        calibrate_model(run_of(folder, cache_only=cache_only), tmp_path / "out")


def test_a_clamped_run_carries_on_and_says_so(overflowing, tmp_path):
    events = []
    run = run_of(overflowing, clamp=True)
    report = calibrate_model(run, tmp_path / "out", listener=events.append)
    assert report.header.clamped == (1,)
    (told,) = [e for e in events if isinstance(e, Note) and e.level == "warning"]
    assert "1 of 3 layers: layers.1" in told.text
    found = load_statistics(tmp_path / "out")
    for name, (inputs, outputs) in found.header.linears.items():
        for layer in range(3):
            for side, width in (("input", inputs), ("output", outputs)):
                ours = found.linear(layer, name, side)
                assert ours["min"].shape == (width,)
                assert all(t.isfinite().all() for t in ours.values())
    largest = found.linear(1, "mlp.down_proj", "output")
    assert float(largest["absmax"].max()) == 65504.0
    assert found.linear(2, "self_attn.q_proj", "input")["absmax"].max() < 65504.0  # after a norm


def test_damage_is_found_before_anything_is_written(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    damage(folder, **{"model.layers.1.mlp.up_proj.weight": lambda t: t / 0})
    with pytest.raises(NumericError, match=r"layers\.1\.mlp\.up_proj"):
        calibrate_model(run_of(folder), tmp_path / "out")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["m"]
