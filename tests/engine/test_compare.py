import json
import random
import weakref

import pytest
from tiny_awq import quantize_folder
from tiny_coded import code_folder
from tiny_models import save_tiny

from mindpress.engine import validation_steps
from mindpress.engine.compare import compare
from mindpress.engine.compare_report import short_names
from mindpress.engine.compare_settings import Comparison
from mindpress.engine.settings import Validation
from mindpress.engine.validate import validate
from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.events import Started
from mindpress.formats.gptq import GptqLayout
from mindpress.formats.quantized import QuantSpec

WORDS = ("the", "history", "of", "a", "city", "is", "long", ".")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An original, itself in codes of AWQ and of GPTQ, and a model of fewer tokens."""
    home = tmp_path_factory.mktemp("models")
    for name in ("original", "awq", "gptq"):
        save_tiny("llama", home / name)
    quantize_folder(home / "awq")
    code_folder(home / "gptq", GptqLayout(QuantSpec(8, -1)))
    save_tiny("llama", home / "smaller", vocab_size=4000)
    return home


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "some.txt"
    file.write_text(" ".join(random.Random(0).choices(WORDS, k=300)))
    return file


def settings(models, text, output, *names, **changes):
    values = {"against": str(models / "original"), "length": 64, "device": "cpu"} | changes
    paths = tuple(str(models / name) for name in names or ("awq", "gptq"))
    return Comparison(paths, datasets=(str(text),), output=output, **values)


@pytest.fixture(scope="module")
def compared(models, text, tmp_path_factory):
    """A comparison, and the folder of its report, which was not there."""
    folder = tmp_path_factory.mktemp("compared") / "new" / "folder"
    return compare(settings(models, text, folder, "awq", "gptq", "original", limit=2)), folder


def test_the_figures_are_those_of_a_validation(models, text, compared, tmp_path):
    awq, gptq, same = compared[0].models
    assert [model.name for model in compared[0].models] == ["awq", "gptq", "original"]
    single = validate(
        Validation(str(models / "awq"), str(models / "original"), (str(text),), 64, 2, "cpu",
                   caches=False, output=tmp_path)
    )  # fmt: skip
    assert awq.datasets == single.datasets
    assert awq.figures.bits_per_weight == single.model.bits_per_weight
    assert awq.figures.bytes < gptq.figures.bytes < same.figures.bytes
    assert awq.datasets[0].kl_divergence > 0.01
    assert awq.datasets[0].kl_divergence != gptq.datasets[0].kl_divergence
    assert (same.datasets[0].kl_divergence, same.datasets[0].top1_agreement) == (0, 1)
    for model in (*(found.figures for found in compared[0].models), compared[0].original):
        assert model.prefill > 0
        assert model.decode > 0


def test_the_files_say_what_the_report_says(compared):
    report, folder = compared
    assert sorted(file.name for file in folder.iterdir()) == ["compare.html", "compare.json"]
    assert json.loads((folder / "compare.json").read_text()) == report.as_dict()
    page = (folder / "compare.html").read_text()
    assert page.count("<svg") == 3
    assert "KL divergence, nats" in page
    assert "size on disk, MiB" in page
    assert "GPTQ" in page
    assert any("the first 2 of" in note for note in report.notes)
    assert not any("1 of 3" in note for note in report.notes)


def test_two_models_are_in_memory_at_most(models, text, tmp_path, monkeypatch):
    loaded, alive, load = [], [], validation_steps.load_decoder

    def watched(*arguments):
        alive.append(sum(one() is not None for one in loaded))
        decoder = load(*arguments)
        loaded.append(weakref.ref(decoder))
        return decoder

    monkeypatch.setattr(validation_steps, "load_decoder", watched)
    compare(settings(models, text, tmp_path, "awq", "gptq", "original", limit=1))
    # The warm-up, then the original, then every model beside it.
    assert alive == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("names", "changes", "kind", "words"),
    [
        (("awq", "smaller"), {}, ConfigError, "that of .*smaller has 4000"),
        (("awq", "nowhere"), {}, InputError, "nowhere: no such folder"),
        (("awq", "gptq"), {"against": "./nowhere"}, InputError, "nowhere: no such folder"),
        (("awq", "gptq"), {"output": "text"}, ConfigError, "is a file"),
        (("awq", "gptq"), {"output": "/proc/new"}, ResourceError, "cannot be written"),
    ],
)
def test_everything_is_checked_before_weights_are_read(models, text, names, changes, kind, words):
    events, output = [], text.parent / "out"
    if "output" in changes:
        wanted = changes["output"]
        changes, output = {}, text if wanted == "text" else type(text)(wanted)
    with pytest.raises(kind, match=words):
        compare(settings(models, text, output, *names, **changes), events.append)
    assert not any(isinstance(event, Started) for event in events)
    assert not (text.parent / "out").exists()


def test_a_damaged_folder_is_refused_before_another_is_measured(models, text, tmp_path):
    damaged = save_tiny("llama", tmp_path / "damaged")
    code_folder(damaged, GptqLayout(QuantSpec(4, 64)))
    (damaged / "model.safetensors").write_bytes(b"damaged")
    events = []
    asked = settings(models, text, tmp_path / "out", "awq", str(damaged))
    with pytest.raises(InputError, match="truncated or damaged"):
        compare(asked, events.append)
    assert not any(isinstance(event, Started) for event in events)


@pytest.mark.parametrize(
    ("paths", "changes", "words"),
    [
        (("a",), {}, "1 model to compare"),
        (("a", "b", "a"), {}, "a: is given twice"),
        (("a", "b"), {"length": 1}, "--seqlen 1"),
        (("a", "b"), {"limit": 0}, "--limit 0"),
        (("a", "b"), {"datasets": ()}, "no dataset"),
    ],
)
def test_settings_that_make_no_sense(paths, changes, words):
    with pytest.raises(ConfigError, match=words):
        Comparison(paths, "original", **changes)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a", "y/b"], ["a", "b"]),
        (["x/a", "y/a", "b"], ["x/a", "y/a", "b"]),
        (["org/model", "./model"], ["org/model", "model"]),
        (["a", "./a"], ["a", "./a"]),
    ],
)
def test_names_tell_the_paths_apart(paths, names):
    assert short_names(paths) == names
