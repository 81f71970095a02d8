"""Blocks that compute in float16, as on a GPU, and pass its range."""

import pytest
import torch

from mindpress.calib.statistics_file import load_statistics
from mindpress.calib.stream import BlockStream
from mindpress.events import Advanced, Note
from mindpress.lite import calibrate, quantize
from mindpress.lite.choose import ENDLESS, HeldOut, disturbance
from mindpress.lite.inputs import draw_tokens
from mindpress.lite.recipe import smooth_quant_recipe
from mindpress.sources.folder import open_folder
from tests.damaged_weights import damage
from tests.short_runs import FEW, FEW_LONGER, recipe, run_of
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
            assert stream.overflowed == (dtype == torch.float16)
            assert block.module.mlp.up_proj.weight.dtype == stream.dtype == dtype
        with stream.block(2) as block:
            assert block.run(hidden).dtype == dtype
            assert not stream.overflowed
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
        "model.layers.1: passes the largest float16 inside: calibrated in float32; run the model in"
        " bfloat16 or float32"
    ]
    wanted = [layer.error for layer in exact.layers[:2]]
    assert [layer.error for layer in report.layers[:2]] == pytest.approx(wanted, rel=0.1)


def test_calibration_records_what_is_there(inside, tmp_path, in_float16):
    events = []
    report = calibrate.calibrate_model(run_of(inside), tmp_path / "out", listener=events.append)
    assert report.header.clamped == ()
    assert told(events) == [
        "layers.1: passes the largest float16 inside: calibrated in float32; run the model in"
        " bfloat16 or float32"
    ]
    seen = load_statistics(tmp_path / "out").linear(1, "mlp.down_proj", "input")
    assert 65_504 < float(seen["absmax"].max()) < torch.inf


def scaled(folder, factor):
    """What the second MLP multiplies is larger, and what comes out of it the same."""
    damage(folder, **{
        "model.layers.1.mlp.up_proj.weight": lambda weight: weight * factor,
        "model.layers.1.mlp.down_proj.weight": lambda weight: weight / factor,
    })  # fmt: skip


@pytest.fixture(scope="module")
def in_a_batch(tmp_path_factory):
    """A model of which the first batch passes float16 and the others do not, or the other way."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("batch") / "m", num_hidden_layers=3)
    source = open_folder(folder)
    tokens = draw_tokens(
        source, FEW_LONGER, FEW_LONGER.length, lambda _: None, trust_remote_code=False
    )
    stream = BlockStream(source, CPU, torch.float32)
    hidden = torch.empty((*tokens.shape, source.shape.hidden))
    stream.embed(tokens, hidden)
    with stream.block(0) as block:
        hidden = block.run(hidden)
    with stream.block(1) as block:
        largest = [
            float(block.inputs_of(("mlp.down_proj",), batch)[0].abs().max())
            for batch in hidden[:-1].split(FEW_LONGER.batch_size)
        ]
    least, most = min(largest), max(largest)
    assert most > 1.02 * least
    scaled(folder, 65_504 / (least * most) ** 0.5)
    return folder


class StopError(Exception):
    """Where a run is killed."""


@pytest.mark.parametrize(("run", "settings"), [
    (quantize.quantize_model, {"rounding": "nearest"}),
    (quantize.quantize_model, {"rounding": "compensated", "propagate": "quantized"}),
    (quantize.quantize_model, {"rounding": "compensated", "propagate": "asymmetric"}),
    (calibrate.calibrate_model, None),
], ids=str)  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_bytes(
    in_a_batch, tmp_path, in_float16, run, settings
):
    def stop(event):
        if isinstance(event, Advanced) and event.figures and event.done == 2:
            raise StopError

    calibrated = run_of(in_a_batch, calibration=FEW_LONGER)
    asked, events = recipe(in_a_batch, **settings) if settings else calibrated, []
    run(asked, tmp_path / "whole", listener=events.append)
    assert told(events)
    with pytest.raises(StopError):
        run(asked, tmp_path / "pieces", listener=stop)
    run(asked, tmp_path / "pieces")
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "pieces" / file.name).read_bytes() == file.read_bytes(), file.name


def test_codes_that_overflow_where_the_original_does_not_are_not_taken(tmp_path, in_float16):
    """They would be NaN wherever the model is run in float16."""
    folder = save_tiny("llama", tmp_path / "m", num_hidden_layers=1)
    with BlockStream(open_folder(folder), CPU, torch.float16).block(0) as block:
        hidden = torch.randn(1, 8, 128, generator=torch.Generator().manual_seed(0))
        held = HeldOut(hidden, block.run(hidden).float())
        assert disturbance(block, held) == 0
        (read,) = block.inputs_of(("mlp.down_proj",), hidden)
        factor = 2 * 65_504 / float(read.abs().max())
        for name, by in (("up_proj", factor**0.5), ("up_proj", factor**0.5), ("down_proj", 0)):
            block.module.mlp.get_submodule(name).weight.data *= by
        assert disturbance(block, held) == ENDLESS
        block.stream.overflowed = True  # had the original done so
        assert disturbance(block, held) < 1.01
