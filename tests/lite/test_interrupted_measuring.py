"""`--target-bpw`, killed while it measures how sensitive the model is."""

from functools import partial

import pytest

from mindpress.errors import ConfigError, InputError
from mindpress.events import Advanced, Note, Started
from mindpress.lite import quantize
from mindpress.lite.sensitivity_file import KeptSensitivity
from tests.lite.test_mixed_precision import recipe
from tests.tiny_models import save_tiny

KEPT = "sensitivities-2.bin"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("measured") / "llama", num_hidden_layers=3)


@pytest.fixture(scope="module")
def whole(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "whole"
    quantize.quantize_model(recipe(llama, target_bpw=6.5), folder)
    return folder


class Stopping:
    """Ctrl-C after so many layers of the measurement; what was heard."""

    def __init__(self, after):
        self.after, self.measuring, self.heard = after, False, []

    def __call__(self, event):
        self.heard.append(event)
        if isinstance(event, Started):
            self.measuring = event.what == "measure sensitivity"
        if isinstance(event, Advanced) and self.measuring and event.done == self.after:
            raise KeyboardInterrupt


@pytest.fixture
def cut(llama, tmp_path, monkeypatch):
    """Stopped behind the second of three layers, with everything kept at once."""
    at_once = partial(KeptSensitivity, seconds=0.0)
    monkeypatch.setattr(quantize, "KeptSensitivity", at_once)
    with pytest.raises(KeyboardInterrupt):
        quantize.quantize_model(
            recipe(llama, target_bpw=6.5), tmp_path / "cut", listener=Stopping(2)
        )
    return tmp_path / "cut"


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_it_goes_on_and_ends_with_the_same_bytes(llama, whole, cut):
    aside = cut.parent / ".cut.partial"
    assert {file.name for file in aside.iterdir()} == {"journal.json", "output", KEPT}
    again = Stopping(0)
    quantize.quantize_model(recipe(llama, target_bpw=6.5), cut, listener=again)
    assert contents(cut) == contents(whole)
    assert not aside.exists()
    assert any("goes on after layer 2" in e.text for e in again.heard if isinstance(e, Note))
    begun = next(i for i, e in enumerate(again.heard) if getattr(e, "what", "")[:7] == "measure")
    assert again.heard[begun + 1] == Advanced(3)


def test_other_settings_are_refused(llama, cut):
    with pytest.raises(ConfigError, match="other settings"):
        quantize.quantize_model(recipe(llama, target_bpw=7.0), cut)


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_damage_is_refused_and_overwrite_starts_afresh(llama, whole, cut, damage):
    kept = cut.parent / ".cut.partial" / KEPT
    if damage == "gone":
        kept.unlink()
    else:
        kept.write_bytes(bytes([kept.read_bytes()[0] ^ 1]) + kept.read_bytes()[1:])
    with pytest.raises(InputError, match="are damaged") as caught:
        quantize.quantize_model(recipe(llama, target_bpw=6.5), cut)
    assert "--overwrite" in str(caught.value.hint)
    quantize.quantize_model(recipe(llama, target_bpw=6.5), cut, overwrite=True)
    assert contents(cut) == contents(whole)


def test_little_work_is_not_kept(llama, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quantize.quantize_model(
            recipe(llama, target_bpw=6.5), tmp_path / "out", listener=Stopping(2)
        )
    assert list(tmp_path.iterdir()) == []
