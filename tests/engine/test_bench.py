"""A benchmark as a whole: what is measured, reported and saved, and what is refused before."""

import json
from dataclasses import replace

import pytest
from tiny_bench import CPU, WORDS, opened, save_ending, settings
from tiny_models import TOKENIZER, edit_config, save_tiny

from mindpress.engine.bench import bench
from mindpress.engine.bench_figures import times_better
from mindpress.engine.bench_measure import measure_runtime
from mindpress.engine.bench_report import check_folder, save
from mindpress.engine.bench_settings import Load
from mindpress.engine.bench_subjects import find_subjects, find_tokens
from mindpress.engine.bench_transformers import open_transformers
from mindpress.engine.bench_workload import Tokens, workload
from mindpress.engine.config import EngineConfig
from mindpress.errors import ConfigError, InputError
from mindpress.events import Advanced, Note, Started, ignore


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_ending(tmp_path_factory.mktemp("bench") / "model")


def test_a_runtime_is_measured(llama):
    found = measure_runtime(opened(llama), settings(repeats=3), Load(4, 2))
    assert len(found.runs) == 3
    for run in found.runs:
        assert run.figures["output_tokens_per_second"] == pytest.approx(16 / run.seconds)
        assert run.figures["requests_per_second"] == pytest.approx(4 / run.seconds)
        assert run.reused_tokens == 0
    prefill, decode = (found.figures[name] for name in
                       ("prefill_tokens_per_second", "decode_tokens_per_second"))  # fmt: skip
    assert prefill.median > 0 < decode.median
    with pytest.raises(ConfigError, match="a sequence of the runtime holds 64"):
        measure_runtime(opened(llama), settings(input_len=64), Load(1, 1))


@pytest.fixture(scope="module")
def measurement(tmp_path_factory):
    """Its settings, report and events. The model is larger than what else memory grows by."""
    events, folder = [], tmp_path_factory.mktemp("report") / "new" / "folder"
    loads = ((1, 1), (2, 2))
    given = settings(TOKENIZER, loads, against=f"hf:{TOKENIZER}", output=folder, warmup=2)
    return given, bench(given, events.append), events


def test_the_report_is_what_was_measured(measurement):
    given, report, events = measurement
    assert [load.name for load in report.loads] == ["batch 1", "batch 2"]
    for load in report.loads:
        assert (load.prompt_tokens, load.answer_tokens) == (12 * load.requests, 4 * load.requests)
        assert len(load.model.runs) == len(load.against.runs) == given.repeats
        for model, found in ((report.model, load.model), (report.against, load.against)):
            assert found.runs[0].figures["peak_memory_bytes"] >= model.held_bytes
        ratio = load.times["output_tokens_per_second"]
        assert ratio.least <= ratio.median <= ratio.most
        assert ratio == times_better(load.model.runs, load.against.runs)["output_tokens_per_second"]
    begun = [(event.what, event.total) for event in events if isinstance(event, Started)]
    assert begun[-1] == ("bench", 8)
    assert begun.count(("warm up", 4)) == 2
    told = [event.detail.split(" writes")[0] for event in events
            if isinstance(event, Advanced) and event.detail]  # fmt: skip
    assert told == ["this model", "the other"] * 4


def test_the_report_is_saved_as_it_is(measurement):
    given, report, _ = measurement
    folder = given.output
    assert sorted(file.name for file in folder.iterdir()) == ["bench.html", "bench.json"]
    assert json.loads((folder / "bench.json").read_text()) == report.as_dict()
    page = (folder / "bench.html").read_text()
    assert "decode, tokens/s" in page
    assert "percentile of the time between tokens" in page
    assert f"hf:{TOKENIZER}" in page
    assert page.count("<svg") == 4


def test_a_cache_too_small_for_all_at_once_is_said(llama):
    notes = []
    for size in (2**16, 2**18):  # two pages of 32 tokens, and eight
        given = settings(llama, ((8, 8),), engine=EngineConfig("cpu", cache_memory=size))
        (subject,) = find_subjects(given, CPU)
        runner = subject.open(notes.append)
        assert len(runner.run(workload(given, Load(8, 8), Tokens(4096), 0))) == 8
    told = [note.text for note in notes if isinstance(note, Note)]
    assert told == [
        "the cache holds 64 tokens, 8 requests of 16 do not fit: some wait, or are read again"
    ]


def test_only_a_report_of_ours_is_replaced(measurement, tmp_path):
    _, report, _ = measurement
    (tmp_path / "thesis.txt").write_text("all of it")
    save(report, "one", tmp_path)
    save(replace(report, seconds=7.0), "two", tmp_path)
    assert json.loads((tmp_path / "bench.json").read_text())["seconds"] == 7
    assert (tmp_path / "bench.html").read_text() == "two"
    (tmp_path / "bench.json").write_text('{"mine": 1}')
    with pytest.raises(ConfigError, match=r"its bench\.json is not by"):
        save(report, "three", tmp_path)
    (tmp_path / "bench.json").unlink()
    with pytest.raises(ConfigError, match=r"its bench\.html is not by"):
        check_folder(tmp_path)
    assert (tmp_path / "bench.html").read_text() == "two"
    assert (tmp_path / "thesis.txt").read_text() == "all of it"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bench.html", "thesis.txt"]


def test_the_output_folder_is_checked_before_anything_else(tmp_path):
    (tmp_path / "bench.html").write_text("mine")
    events = []
    with pytest.raises(ConfigError, match="is not by"):
        bench(settings(tmp_path / "no model", output=tmp_path), events.append)
    with pytest.raises(ConfigError, match="is a file"):
        bench(settings(tmp_path / "no model", output=tmp_path / "bench.html"), events.append)
    assert events == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_len": 0}, "--input-len 0"),
        ({"output_len": 0}, "--output-len 0"),
        ({"repeats": 0}, "--repeats 0"),
        ({"warmup": -1}, "--warmup -1"),
        ({"range_ratio": 1.0}, "--range-ratio 1"),
        ({"loads": ()}, "nothing to measure"),
        ({"loads": ((0, 1),)}, "0 requests"),
        ({"loads": ((9, 9),), "engine": EngineConfig(max_batch_size=8)}, "--max-batch-size 8"),
        (
            {"loads": ((9, 9),), "engine": EngineConfig(max_prefill_token_num=4)},
            "--max-prefill-token-num 4",
        ),
        (
            {"engine": EngineConfig(session_len=15)},
            "--input-len 12, --output-len 4: up to 16 tokens, --session-len 15 holds 15",
        ),
        ({"engine": EngineConfig(session_len=20), "range_ratio": 0.5}, "up to 24 tokens"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        settings(**changes)


def test_a_sequence_has_room_for_the_longest_request_and_no_more():
    assert settings(range_ratio=0.5).running.session_len == 18 + 6
    given = settings(engine=EngineConfig(session_len=99))
    assert given.running.session_len == 99


@pytest.fixture
def others(llama, tmp_path):
    """Folders that transformers cannot run, by what is wrong."""
    (tmp_path / "empty").mkdir()
    for name in ("no weights", "damaged", "unknown"):
        save_tiny("llama", tmp_path / name, tokenizer=False)
    (tmp_path / "no weights" / "model.safetensors").unlink()
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"damage")
    edit_config(tmp_path / "unknown", model_type="nobody_knows", architectures=None)
    return tmp_path


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("empty", "transformers cannot load it"),
        ("no weights", r"holds no \*\.safetensors"),
        ("unknown", "transformers cannot load it"),
        ("nowhere", "no such folder"),
    ],
)
def test_what_transformers_cannot_run_is_refused_before_weights_are_read(
    llama, others, other, words
):
    events = []
    with pytest.raises(InputError, match=words):
        bench(settings(llama, against=f"hf:{others / other}"), events.append)
    assert not any(isinstance(event, Started) for event in events)


def test_damage_that_only_loading_shows_is_an_input_error_too(others):
    with pytest.raises(InputError, match="transformers cannot load it"):
        open_transformers(others / "damaged", "auto", CPU, trust_remote_code=False)


def test_the_context_of_both_models_is_checked_before_weights_are_read(llama, tmp_path):
    small = save_tiny("llama", tmp_path / "small", tokenizer=False, max_position_embeddings=15)
    for against in (str(small), f"hf:{small}"):
        events = []
        with pytest.raises(ConfigError, match=r"16 tokens, the context of .*small holds 15"):
            bench(settings(llama, against=against), events.append)
        assert events == []


def test_models_of_unequal_vocabulary_get_tokens_that_both_know(llama, tmp_path):
    small = save_tiny("llama", tmp_path / "small", tokenizer=False, vocab_size=64)
    for against in (str(small), f"hf:{small}"):
        given = settings(llama, against=against)
        subjects = find_subjects(given, CPU)
        assert [subject.vocab for subject in subjects] == [4096, 64]
        assert find_tokens(given, subjects, ignore).vocab == 64
    text = tmp_path / "some.txt"
    text.write_text(" ".join(WORDS * 20))
    given = replace(given, dataset=str(text))
    with pytest.raises(InputError, match="the model's last is 63"):
        find_tokens(given, find_subjects(given, CPU), ignore)
