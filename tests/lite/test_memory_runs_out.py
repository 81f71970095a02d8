"""A GPU without memory for a batch: half of it is tried, and nothing is counted twice."""

import hashlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from mindpress.engine import perplexity
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import score_windows
from mindpress.errors import ResourceError
from mindpress.events import Advanced, Note
from mindpress.lite.calibrate import calibrate_model
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration, smooth_quant_recipe
from mindpress.sources.folder import open_folder
from tests.short_runs import recipe, run_of

EIGHT = Calibration(dataset="excerpt", samples=9, length=48, batch_size=8)
PATHS = [
    {"rounding": "nearest"},  # the original model's hidden states, search
    {"rounding": "compensated", "propagate": "quantized", "search_scale": False},
    {"rounding": "compensated", "propagate": "asymmetric", "search_scale": False},
    {},  # smooth_quant
]


@pytest.fixture
def room_for(monkeypatch):
    """The end of a block has memory for so many samples, when its other parts were computed."""
    forward = LlamaMLP.forward

    def limit(samples):
        def limited(self, x):
            if len(x) > samples:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, x)

        monkeypatch.setattr(LlamaMLP, "forward", limited)

    return limit


def weights(folder):
    return [hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.safetensors")]


def told(events):
    return [event.text for event in events if isinstance(event, Note) and "ran out" in event.text]


@pytest.mark.parametrize("changes", PATHS, ids=str)
def test_a_run_is_that_of_the_smaller_batch(llama, tmp_path, room_for, changes):
    eight = recipe(llama, **changes) if changes else smooth_quant_recipe(str(llama), EIGHT)
    eight = replace(eight, calibration=EIGHT)
    two = replace(eight, calibration=replace(EIGHT, batch_size=2))
    quantize_model(two, tmp_path / "two")
    room_for(2)
    events = []
    quantize_model(eight, tmp_path / "eight", listener=events.append)
    assert weights(tmp_path / "eight") == weights(tmp_path / "two")
    assert [text[:60] for text in told(events)] == [
        "model.layers.0: memory ran out with 8 samples at once: from ",
        "model.layers.0: memory ran out with 4 samples at once: from ",
    ]


class StopError(Exception):
    """Where a run is killed."""


@pytest.mark.parametrize(("run", "asked"), [
    (quantize_model, partial(recipe, rounding="compensated", propagate="asymmetric")),
    (quantize_model, partial(recipe, rounding="compensated", propagate="quantized")),
    (calibrate_model, run_of),
])  # fmt: skip
def test_a_run_that_goes_on_keeps_the_smaller_batch(llama, tmp_path, room_for, run, asked):
    def stop(event):
        if isinstance(event, Advanced) and event.figures:
            raise StopError

    wanted = asked(llama, calibration=EIGHT)
    run(asked(llama, calibration=replace(EIGHT, batch_size=2)), tmp_path / "two")
    room_for(2)
    with pytest.raises(StopError):
        run(wanted, tmp_path / "eight", listener=stop)
    room_for(8)  # other programs have ended meanwhile
    run(wanted, tmp_path / "eight")
    assert weights(tmp_path / "eight") == weights(tmp_path / "two")


def test_a_calibration_is_that_of_the_smaller_batch(llama, tmp_path, room_for):
    calibrate_model(run_of(llama, calibration=replace(EIGHT, batch_size=2)), tmp_path / "two")
    room_for(2)
    events = []
    calibrate_model(run_of(llama, calibration=EIGHT), tmp_path / "eight", listener=events.append)
    assert weights(tmp_path / "eight") == weights(tmp_path / "two")
    assert len(told(events)) == 2


@pytest.mark.parametrize(("run", "asked"), [(quantize_model, recipe), (calibrate_model, run_of)])
def test_no_memory_for_a_single_sample(llama, tmp_path, room_for, run, asked):
    room_for(0)
    with pytest.raises(ResourceError, match="one sample at a time") as caught:
        run(asked(llama, calibration=EIGHT), tmp_path / "out")
    assert "--calib-seqlen" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_scores_are_those_of_the_smaller_batch(llama, monkeypatch):
    decoder = load_decoder(open_folder(llama), EngineConfig("cpu"))
    windows = torch.randint(0, 4096, (7, 32), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(perplexity, "TOKENS_AT_ONCE", 64)
    wanted = score_windows(decoder, windows)
    logits = decoder.logits

    def limited(hidden):
        if len(hidden) > 2 * 31:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(hidden)

    monkeypatch.setattr(perplexity, "TOKENS_AT_ONCE", 256)
    monkeypatch.setattr(decoder, "logits", limited)
    events = []
    assert score_windows(decoder, windows, listener=events.append) == wanted
    assert len(told(events)) == 2
