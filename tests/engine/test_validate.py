import json
import random
from pathlib import Path

import pytest
import torch
from tiny_models import TOKENIZER, save_tiny

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import cut_windows, score_windows
from mindpress.engine.settings import Validation
from mindpress.engine.validate import validate
from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.events import Note, Started
from mindpress.sources.folder import open_folder

WORDS = ("the", "history", "of", "a", "city", "is", "long", ".")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three models with the demo's tokenizer: one, another, and one of fewer tokens."""
    home = tmp_path_factory.mktemp("models")
    save_tiny("llama", home / "one")
    save_tiny("llama", home / "other", seed=1)
    save_tiny("llama", home / "smaller", vocab_size=4000)
    return home


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "some.txt"
    file.write_text(" ".join(random.Random(0).choices(WORDS, k=700)))
    return file


def settings(models, text, output, **changes):
    values = {"against": str(models / "other"), "length": 64, "device": "cpu"} | changes
    return Validation(str(models / "one"), datasets=(str(text),), output=output, **values)


def test_the_figures_are_those_of_the_two_models(models, text, tmp_path):
    report = validate(settings(models, text, tmp_path))
    ids = load_tokenizer(TOKENIZER)(text.read_text())["input_ids"]
    windows = cut_windows(torch.tensor(ids), 64)
    one, other = (
        load_decoder(open_folder(models / name), EngineConfig("cpu")) for name in ("one", "other")
    )
    score = score_windows(one, windows, other)
    (found,) = report.datasets
    assert found.windows == found.of_windows == len(windows)
    assert (found.perplexity, found.original_perplexity) == pytest.approx(
        (score.perplexity, score.other_perplexity)
    )
    assert (found.kl_divergence, found.top1_agreement) == pytest.approx(
        (score.divergence, score.agreement)
    )
    for model in (report.model, report.original):
        assert model.bits_per_weight == pytest.approx(16, abs=0.1)
        assert model.bytes >= (models / "one" / "model.safetensors").stat().st_size * 0.95
        assert model.prefill > 0
        assert model.decode > 0
        assert model.peak_memory > one.nbytes * 0.8
        assert model.dtype == "float32"


def test_the_files_say_what_the_report_says(models, text, tmp_path):
    report = validate(settings(models, text, tmp_path / "new" / "folder"))
    folder = tmp_path / "new" / "folder"
    assert sorted(file.name for file in folder.iterdir()) == ["validation.html", "validation.json"]
    assert json.loads((folder / "validation.json").read_text()) == report.as_dict()
    page = (folder / "validation.html").read_text()
    assert f"{report.datasets[0].perplexity:,.1f}"[:4] in page
    assert "KL divergence" in page
    assert str(models / "other") in page


def test_alone_and_again_into_the_same_folder(models, text, tmp_path):
    validate(settings(models, text, tmp_path))
    report = validate(settings(models, text, tmp_path, against=None, caches=False))
    assert report.original is None
    assert report.caches == ()
    assert report.datasets[0].kl_divergence is None
    assert json.loads((tmp_path / "validation.json").read_text())["original"] is None
    assert "KL divergence" not in (tmp_path / "validation.html").read_text()


def test_what_is_clamped_is_said_and_kept(models, text, tmp_path):
    events = []
    report = validate(
        settings(models, text, tmp_path, length=2048, against=None, limit=1), events.append
    )
    notes = [event.text for event in events if isinstance(event, Note)]
    assert report.datasets[0].length == 512
    assert "512 tokens, the model's maximum, not 2048" in notes[0]
    assert list(report.notes) == notes
    limited = validate(settings(models, text, tmp_path, against=None, limit=2))
    assert limited.datasets[0].windows == 2
    assert "the first 2 of" in limited.notes[0]


def test_a_text_shorter_than_a_window_is_one_window(models, tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("a short text about a city")
    report = validate(settings(models, file, tmp_path / "out", against=None))
    assert report.datasets[0].windows == 1
    assert report.datasets[0].length == report.datasets[0].tokens + 1
    assert "scored as one window" in report.notes[0]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"against": "smaller"}, ConfigError, "vocabulary has 4000 tokens"),
        ({"against": "nowhere"}, InputError, "no such folder"),
        ({"datasets": ("nosuchset",)}, InputError, "nosuchset"),
        ({"output": "text"}, ConfigError, "is a file"),
    ],
)
def test_everything_is_checked_before_weights_are_read(models, text, changes, kind, words):
    events = []
    if "against" in changes:
        changes = {"against": str(models / changes["against"])}
    if "output" in changes:
        changes = {"output": text}
    values = {"datasets": (str(text),), "output": text.parent / "out", "device": "cpu"} | changes
    with pytest.raises(kind, match=words):
        validate(Validation(str(models / "one"), **values), events.append)
    assert not any(isinstance(event, Started) for event in events)
    assert not (text.parent / "out").exists()


def test_another_tokenizer_is_refused(models, text, tmp_path):
    other = save_tiny("llama", tmp_path / "other", tokenizer=False)
    swapped = json.loads((TOKENIZER / "tokenizer.json").read_text())
    vocabulary = swapped["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(swapped))
    with pytest.raises(ConfigError, match="tokenizer is not that of"):
        validate(settings(models, text, tmp_path / "out", against=str(other)))


def test_a_folder_that_cannot_be_written_is_refused_first(models, text):
    events = []
    with pytest.raises(ResourceError, match=r"--output /proc/.*: /proc cannot be written"):
        validate(settings(models, text, Path("/proc/new/folder")), events.append)
    assert events == []
