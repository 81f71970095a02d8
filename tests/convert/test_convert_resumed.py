"""A conversion that is stopped goes on with the layers that are missing."""

import pytest

from mindpress.checkpoint.verify import verify
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError, InputError
from mindpress.events import Advanced, Note
from tests.tiny_models import save_tiny
from tests.tiny_workspaces import contents

WEIGHT = ".workspace.partial/output/triton_models/weights/layers.0.attention_norm.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    heads = {"hidden_size": 256, "num_attention_heads": 2, "head_dim": 128}
    heads |= {"num_hidden_layers": 3}
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "llama", **heads)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    target = tmp_path_factory.mktemp("out") / "workspace"
    convert_model(Conversion(str(model), target))
    return contents(target)


@pytest.fixture
def stopped(model, tmp_path):
    """The settings of a run that ended when its last layer was still being written."""

    def stop(event):
        if isinstance(event, Advanced) and event.done == 2:
            raise KeyboardInterrupt

    settings = Conversion(str(model), tmp_path / "workspace")
    with pytest.raises(KeyboardInterrupt):
        convert_model(settings, stop)
    assert not settings.target.exists()
    return settings


def test_it_goes_on_and_ends_with_the_same_bytes(stopped, whole, tmp_path):
    events = []
    convert_model(stopped, events.append)
    earlier = [e.done for e in events if isinstance(e, Advanced) and "earlier" in e.detail]
    assert earlier[:1] == [1]
    assert contents(stopped.target) == whole
    assert verify(stopped.target) == len(whole) - 1
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]


def test_files_that_were_damaged_meanwhile_are_written_again(stopped, whole, tmp_path):
    (tmp_path / WEIGHT).write_bytes(bytes(512))
    events = []
    convert_model(stopped, events.append)
    assert any(isinstance(e, Note) and "1 of its files are damaged" in e.text for e in events)
    assert contents(stopped.target) == whole


def test_other_settings_are_refused_with_a_choice(stopped, model):
    other = Conversion(str(model), stopped.target, model_name="llama2")
    with pytest.raises(ConfigError, match="other settings") as caught:
        convert_model(other)
    assert "--overwrite" in str(caught.value.hint)
    convert_model(Conversion(str(model), stopped.target, model_name="llama2", overwrite=True))


def test_a_damaged_journal_is_refused_with_a_choice(stopped, whole, tmp_path):
    (tmp_path / ".workspace.partial" / "journal.json").write_text("[]")
    with pytest.raises(InputError, match="journal"):
        convert_model(stopped)
    convert_model(Conversion(stopped.source, stopped.target, overwrite=True))
    assert contents(stopped.target) == whole
