"""What an interrupted run kept is damaged: it is refused, and `overwrite` starts afresh with it."""

from functools import partial

import pytest

from mindpress.errors import InputError
from mindpress.events import Advanced
from mindpress.lite.calibrate import calibrate_model
from mindpress.lite.quantize import quantize_model
from tests.short_runs import recipe, run_of
from tests.tiny_models import save_tiny

RUNS = [
    pytest.param(quantize_model, partial(recipe, rounding="compensated", propagate="quantized"),
                 "followed-after-2.bin", id="quantized path"),
    pytest.param(quantize_model, partial(recipe, rounding="compensated", propagate="asymmetric"),
                 "followed-after-2.bin", id="asymmetric path"),
    pytest.param(quantize_model, recipe, "output/part-00000.safetensors", id="shard"),
    pytest.param(calibrate_model, run_of, "output/part-00000.safetensors", id="calibrate"),
]  # fmt: skip


class StopError(Exception):
    """Where a run is killed."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("damaged") / "llama", num_hidden_layers=3)


def stop_after(layer):
    def stop(event):
        if isinstance(event, Advanced) and event.figures and event.done == layer:
            raise StopError

    return stop


@pytest.mark.parametrize(("run", "asked", "kept"), RUNS)
def test_overwrite_starts_afresh(llama, tmp_path, run, asked, kept):
    """And what it begins can be interrupted and go on in its turn."""
    wanted, target = asked(llama), tmp_path / "pieces"
    run(wanted, tmp_path / "whole")
    with pytest.raises(StopError):
        run(wanted, target, listener=stop_after(2))
    file = tmp_path / ".pieces.partial" / kept
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="damaged") as caught:
        run(wanted, target)
    assert "--overwrite" in str(caught.value.hint)
    with pytest.raises(StopError):
        run(wanted, target, overwrite=True, listener=stop_after(1))
    run(wanted, target)
    for whole in (tmp_path / "whole").iterdir():
        assert (target / whole.name).read_bytes() == whole.read_bytes(), whole.name
