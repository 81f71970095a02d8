"""Evaluations that are interrupted at any point go on, and give the same scores."""

import json
import random
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from tiny_models import save_tiny

from mindpress.engine import kept, perplexity, throughput, validation_steps
from mindpress.engine.compare import compare
from mindpress.engine.compare_settings import Comparison
from mindpress.engine.settings import Validation
from mindpress.engine.validate import validate
from mindpress.errors import ConfigError, LockedError, NumericError
from mindpress.events import Advanced, Note

WORDS = ("the", "history", "of", "a", "city", "is", "long", ".")
# What a clock or the allocator says; everything else of a report is determined.
TIMED = {"prefill", "decode", "peak_memory", "scoring_memory", "seconds"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "other", "third")):
        save_tiny("llama", home / name, seed=seed)
    return home


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "some.txt"
    file.write_text(" ".join(random.Random(0).choices(WORDS, k=300)))
    return str(file)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Many windows to be killed at, each saved, and short measurements of speed."""
    short = partial(throughput.measure, prompt=4, new=2)
    monkeypatch.setattr(validation_steps, "measure", short)
    monkeypatch.setattr(perplexity, "TOKENS_AT_ONCE", 64)
    monkeypatch.setattr(kept, "SECONDS_BETWEEN_SAVES", 0.0)


def validation(models, text, output, **changes):
    values = {"against": str(models / "other"), "length": 64, "limit": 2, "device": "cpu"} | changes
    return Validation(str(models / "one"), datasets=(text, text), output=output, **values)


def comparison(models, text, output, **changes):
    paths = tuple(str(models / name) for name in ("other", "third"))
    return Comparison(paths, str(models / "one"), (text,), 64, 5, device="cpu",
                      output=output, **changes)  # fmt: skip


def determined(values):
    if isinstance(values, dict):
        return {name: determined(x) for name, x in values.items() if name not in TIMED}
    return [determined(x) for x in values] if isinstance(values, list | tuple) else values


class StopError(Exception):
    """Where a run is killed."""


def stopping(after):
    """A listener that kills the run after so many windows."""
    seen = []

    def listen(event):
        seen.append(event)
        if sum(isinstance(e, Advanced) and bool(e.figures) for e in seen) == after:
            raise StopError

    return listen


def interrupted(run, settings, limit=50):
    """Kill the run after its third window, go on until the third after that, and so on."""
    for count in range(limit):
        with suppress(StopError):
            return run(settings, stopping(3)), count
    raise AssertionError("it does not get on")


@pytest.mark.parametrize(("run", "settings", "name"), [
    (validate, validation, "validation.json"), (compare, comparison, "compare.json"),
])  # fmt: skip
def test_scores_are_those_of_an_uninterrupted_run(models, text, tmp_path, run, settings, name):
    whole = run(settings(models, text, tmp_path / "whole"))
    pieces, count = interrupted(run, settings(models, text, tmp_path / "pieces"))
    assert count >= 2
    ours, theirs = determined(pieces.as_dict()), determined(whole.as_dict())
    assert ours.pop("output") != theirs.pop("output")
    assert ours == theirs
    assert json.loads((tmp_path / "pieces" / name).read_text()) == pieces.as_dict()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pieces", "whole"]


def test_what_is_finished_is_not_measured_again(models, text, tmp_path, monkeypatch):
    with pytest.raises(StopError):
        compare(comparison(models, text, tmp_path / "out"), stopping(7))
    measured, loaded = [], []
    measure, load = validation_steps.measure, validation_steps.load_decoder
    monkeypatch.setattr(validation_steps, "measure", lambda *a: measured.append(a) or measure(*a))
    monkeypatch.setattr(
        validation_steps, "load_decoder", lambda *a: loaded.append(a[0].folder.name) or load(*a)
    )
    events = []
    compare(comparison(models, text, tmp_path / "out"), events.append)
    assert loaded == ["one", "third"]
    assert len(measured) <= 1
    assert any("an interrupted run has measured" in e.text for e in events if isinstance(e, Note))


def test_another_request_or_a_changed_model_is_refused(models, text, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(StopError):
        validate(validation(models, text, output), stopping(2))
    with pytest.raises(ConfigError, match="other settings") as caught:
        validate(validation(models, text, output, limit=3))
    assert "--overwrite" in caught.value.hint
    weights = models / "one" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(ConfigError, match="other settings or another model"):
        validate(validation(models, text, output))
    events = []
    validate(validation(models, text, output, overwrite=True, limit=1), events.append)
    assert not any("interrupted" in e.text for e in events if isinstance(e, Note))
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_two_runs_on_one_output(models, text, tmp_path):
    """The second is told at once, and leaves what the first has kept."""

    def second(event):
        if isinstance(event, Advanced) and event.figures:
            with pytest.raises(LockedError, match="another run is writing"):
                validate(validation(models, text, tmp_path / "out"))
            raise StopError

    with pytest.raises(StopError):
        validate(validation(models, text, tmp_path / "out"), second)
    assert validate(validation(models, text, tmp_path / "out")).datasets
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_gone_on_with_is_not_kept(models, text, tmp_path, monkeypatch):
    monkeypatch.setattr(perplexity, "_surprise", lambda *_: float("nan"))
    with pytest.raises(NumericError):
        validate(validation(models, text, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from functools import partial
from mindpress.engine import kept, perplexity, throughput, validation_steps
validation_steps.measure = partial(throughput.measure, prompt=4, new=2)
kept.SECONDS_BETWEEN_SAVES, perplexity.TOKENS_AT_ONCE = 0.0, 64
from mindpress.cli import progress
def advance(self, step):
    advance.seen += bool(step.figures)
    if advance.seen == 3:
        os.kill(os.getpid(), signal.{name})
advance.seen = 0
progress.Progress._advance = advance
from mindpress.cli.app import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGINT", 130)])
def test_a_killed_command_goes_on(models, text, tmp_path, name, code):
    arguments = ["validate", models / "one", "--dataset", text, "--seqlen", "64", "--no-caches",
                 "-o", tmp_path / "out", "--device", "cpu", "--limit", "5"]  # fmt: skip
    command = [sys.executable, "-c", KILLED.format(name=name), *map(str, arguments)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == code, first.stderr
    left = {".out.validation"} | ({".out.lock"} if code < 0 else set())
    assert {file.name for file in tmp_path.iterdir()} == left
    if code == 130:
        assert first.stderr.splitlines()[-1] == (
            "hint: run the same command to go on where it stopped"
        )
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr  # there are two windows left, not three
    assert "going on with what an interrupted run has measured" in second.stderr
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["out"]
