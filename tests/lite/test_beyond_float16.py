"""Float16 models whose hidden states pass the largest float16, 65,504, and other hard numbers."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from mindpress.calib.hidden import put
from mindpress.calib.statistics_file import load_statistics
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.events import Advanced, Note
from mindpress.lite.calibrate import calibrate_model
from mindpress.lite.quantize import quantize_model
from mindpress.sources.opening import open_source
from tests.damaged_weights import damage
from tests.short_runs import recipe, run_of
from tests.tiny_models import edit_config, save_tiny

PATHS = ("original", "quantized", "asymmetric")


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """A float16 model of 3 layers; what its second adds to a channel is some 100,000s."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("loud") / "m", num_hidden_layers=3)

    def one_channel(weight):
        weight = weight.clone()
        weight[7] *= 200_000
        return weight

    damage(folder, **{"model.layers.1.mlp.down_proj.weight": one_channel})
    return folder


def asked(folder, path):
    rounding = "nearest" if path == "original" else "compensated"
    return recipe(folder, propagate=path, rounding=rounding)


@pytest.fixture(scope="module")
def wide(loud, tmp_path_factory):
    """The same model in float32, whose hidden states are float32."""
    folder = shutil.copytree(loud, tmp_path_factory.mktemp("wide") / "m")
    names = load_file(folder / "model.safetensors")
    damage(folder, **dict.fromkeys(names, torch.Tensor.float))
    edit_config(folder, dtype="float32")
    return folder


@pytest.mark.parametrize("path", PATHS)
def test_the_run_goes_on_in_bfloat16_and_says_so(loud, wide, tmp_path, path):
    events = []
    report = quantize_model(asked(loud, path), tmp_path / "out", listener=events.append)
    told = [event.text for event in events if isinstance(event, Note)]
    assert any(
        text.startswith("model.layers.1: its output passes the largest float16") for text in told
    )
    exact = quantize_model(asked(wide, path), tmp_path / "exact")
    wanted = [layer.error for layer in exact.layers]
    assert [layer.error for layer in report.layers] == pytest.approx(wanted, rel=0.25, abs=1e-5)
    load_decoder(open_source(tmp_path / "out"), EngineConfig("cpu"))


class StopError(Exception):
    """Where a run is killed."""


@pytest.mark.parametrize(("path", "after"), [
    ("original", 2), ("quantized", 2), ("asymmetric", 1), ("asymmetric", 2),
])  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_bytes(loud, tmp_path, path, after):
    def stop(event):
        if isinstance(event, Advanced) and event.detail and event.figures and event.done == after:
            raise StopError

    wanted = asked(loud, path)
    quantize_model(wanted, tmp_path / "whole")
    with pytest.raises(StopError):
        quantize_model(wanted, tmp_path / "pieces", listener=stop)
    quantize_model(wanted, tmp_path / "pieces")
    whole, pieces = (tmp_path / name for name in ("whole", "pieces"))
    for file in whole.glob("*.safetensors"):
        assert file.read_bytes() == (pieces / file.name).read_bytes()
    assert sorted(f.name for f in pieces.iterdir()) == sorted(f.name for f in whole.iterdir())
    assert sorted(f.name for f in tmp_path.iterdir()) == ["pieces", "whole"]


def test_calibration_records_what_is_there(loud, tmp_path):
    events = []
    report = calibrate_model(run_of(loud), tmp_path / "out", listener=events.append)
    assert report.header.clamped == ()
    assert any("layers.1: its output passes" in e.text for e in events if isinstance(e, Note))
    seen = load_statistics(tmp_path / "out").linear(1, "mlp.down_proj", "output")
    assert float(seen["absmax"].max()) > 1e5


def test_only_what_passes_float16_widens():
    def states():
        return torch.tensor([[[1.0, 2.0]], [[3.0, -4.0]]], dtype=torch.float16)

    kept = states()
    for found in (torch.tensor([[[5.0, 65504.0]]]), torch.tensor([[[torch.inf, 1e6]]])):
        assert put(kept, slice(0, 1), found) is kept
    wide = put(states(), slice(0, 1), torch.tensor([[[5.0, -1e6]]]))
    assert wide.dtype == torch.bfloat16
    assert wide[1].tolist() == [[3.0, -4.0]]
    assert wide[0, 0, 1].item() == pytest.approx(-1e6, rel=1e-2)
    floats = states().float()
    assert put(floats, slice(0, 1), torch.tensor([[[5.0, -1e6]]])) is floats
