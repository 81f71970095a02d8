"""Blocks that compute in float16, as on a GPU, and pass its range."""

import pytest
import torch

from mindpress.calib.statistics_file import load_statistics
from mindpress.calib.stream import BlockStream
from mindpress.events import Note
from mindpress.lite import calibrate, quantize
from mindpress.lite.recipe import smooth_quant_recipe
from mindpress.sources.folder import open_folder
from tests.damaged_weights import damage
from tests.short_runs import FEW, recipe, run_of
from tests.tiny_models import save_tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A float16 model of 3 layers. What the second one's MLP multiplies passes 65,504; what comes
    out of it does not, nor does what the third one is fed.
    """
    folder = save_tiny("llama", tmp_path_factory.mktemp("inside") / "m", num_hidden_layers=3)
    damage(folder, **{
        "model.layers.1.mlp.up_proj.weight": lambda weight: weight * 20_000,
        "model.layers.1.mlp.gate_proj.weight": lambda weight: weight * 100,
        "model.layers.1.mlp.down_proj.weight": lambda weight: weight / 2_000,
    })  # fmt: skip
    return folder


@pytest.fixture
def in_float16(monkeypatch):
    """As on a GPU: the type that the model is stored in."""
    for module in (quantize, calibrate):
        monkeypatch.setattr(module, "compute_type", lambda _, stored: stored)


def told(events):
    return [event.text for event in events if isinstance(event, Note) and "inside" in event.text]


def test_such_a_block_is_computed_in_float32_and_the_next_one_is_not(inside):
    hidden = torch.randn(2, 8, 128, generator=torch.Generator().manual_seed(0))
    found = {}
    for dtype in (torch.float16, torch.float32):
        stream = BlockStream(open_folder(inside), CPU, dtype)
        with stream.block(1) as block:
            found[dtype] = block.run(hidden)
            (read,) = block.inputs_of(("mlp.down_proj",), hidden)
            assert read.isfinite().all()
            assert read.abs().max() > torch.finfo(torch.float16).max
            assert stream.dtype == torch.float32
        assert stream.dtype == dtype
        with stream.block(2) as block:
            assert block.run(hidden).dtype == dtype
    torch.testing.assert_close(found[torch.float16], found[torch.float32], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [{"rounding": "nearest"}]
    + [{"rounding": "compensated", "propagate": path} for path in ("quantized", "asymmetric")]
    + [{}],
    ids=str,
)
def test_a_run_goes_on_and_names_the_layer(inside, tmp_path, request, settings):
    asked = recipe(inside, **settings) if settings else smooth_quant_recipe(str(inside), FEW)
    exact = quantize.quantize_model(asked, tmp_path / "float32")
    request.getfixturevalue("in_float16")
    events = []
    report = quantize.quantize_model(asked, tmp_path / "out", listener=events.append)
    assert told(events) == [
        "model.layers.1: passes the largest float16 inside: it was computed in float32"
    ]
    wanted = [layer.error for layer in exact.layers[:2]]
    assert [layer.error for layer in report.layers[:2]] == pytest.approx(wanted, rel=0.1)


def test_calibration_records_what_is_there(inside, tmp_path, in_float16):
    events = []
    report = calibrate.calibrate_model(run_of(inside), tmp_path / "out", listener=events.append)
    assert report.header.clamped == ()
    assert told(events) == [
        "layers.1: passes the largest float16 inside: it was computed in float32"
    ]
    seen = load_statistics(tmp_path / "out").linear(1, "mlp.down_proj", "input")
    assert 65_504 < float(seen["absmax"].max()) < torch.inf
