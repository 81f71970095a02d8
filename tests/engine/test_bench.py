import json
import random
from dataclasses import replace

import pytest
import torch
from tiny_models import TOKENIZER, edit_config, save_tiny

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.bench import bench
from mindpress.engine.bench_figures import (
    FIGURES,
    Run,
    Spread,
    Trace,
    measured,
    percentile,
    run_of,
    times_better,
)
from mindpress.engine.bench_measure import in_turn, measure_runtime
from mindpress.engine.bench_report import check_folder, save
from mindpress.engine.bench_runners import Description, RuntimeRunner
from mindpress.engine.bench_settings import Bench, Load
from mindpress.engine.bench_subjects import find_subjects, find_tokens
from mindpress.engine.bench_transformers import open_transformers
from mindpress.engine.bench_workload import Task, Tokens, Workload, read_tokens, workload
from mindpress.engine.config import EngineConfig, GenerationConfig
from mindpress.engine.opening import open_runtime
from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.events import Advanced, Note, Started, ignore

CPU = torch.device("cpu")
WORDS = ("the", "history", "of", "a", "city", "is", "long", ".")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model that ends its answers, if it is let, with the token that it always begins with."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("bench") / "model")
    runner = open_transformers(folder, "auto", CPU, trust_remote_code=False)
    ids = torch.tensor([[5] * 8])
    first = runner._model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1)
    ends = {"eos_token_id": [2, int(first[0, -1])], "do_sample": True, "temperature": 2.0}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder


def opened(folder, **settings):
    limits = {"max_batch_size": 8, "session_len": 64} | settings
    return open_runtime(folder, EngineConfig("cpu", **limits))


def settings(path="", loads=((4, 2),), **changes):
    values = {"input_len": 12, "output_len": 4, "repeats": 2, "engine": EngineConfig("cpu")}
    loads = tuple(Load(*load) for load in loads)
    return Bench("throughput", str(path), loads, **values | changes)


# Arithmetic


def test_figures_of_a_run_by_hand():
    """Two requests begin together, are read for 2 s, write 2 tokens each until 5 s."""
    one = Trace(30, 10.0, (11.5, 13.0, 15.0))
    other = Trace(10, 10.0, (12.0, 13.0, 15.0))
    run = run_of([one, other], 77)
    found = run.figures
    assert run.seconds == 5.0
    assert found["prefill_tokens_per_second"] == 40 / 2
    assert found["decode_tokens_per_second"] == pytest.approx(4 / 3)
    assert found["output_tokens_per_second"] == 6 / 5
    assert found["requests_per_second"] == 2 / 5
    assert found["first_token_ms_mean"] == 1750
    assert found["first_token_ms_p50"] == 1750
    assert found["first_token_ms_p99"] == pytest.approx(1995)
    # gaps 1.5, 2, 1, 2 s
    assert found["between_tokens_ms_mean"] == 1625
    assert found["between_tokens_ms_p50"] == 1750
    assert found["between_tokens_ms_p90"] == 2000
    assert found["peak_memory_bytes"] == 77
    assert set(found) == {figure.name for figure in FIGURES}


def test_what_is_written_while_others_are_read_is_not_decode():
    first = Trace(8, 0.0, (1.0, 2.0, 3.0, 4.0))
    second = Trace(6, 2.0, (3.0, 4.0))  # is read while the third token of the first comes
    found = run_of([first, second], 0).figures
    assert found["prefill_tokens_per_second"] == 14 / 2
    assert found["decode_tokens_per_second"] == 3 / 2  # at 2, and two at 4
    assert found["output_tokens_per_second"] == 6 / 4


def test_reading_within_the_reading_of_another_counts_once():
    long, short = Trace(9, 0.0, (3.0, 5.0)), Trace(3, 1.0, (2.0, 2.5))
    found = run_of([long, short], 0).figures
    assert found["prefill_tokens_per_second"] == 12 / 3
    assert found["decode_tokens_per_second"] == 1 / 2


def test_answers_of_one_token_have_nothing_between_them():
    found = run_of([Trace(8, 0.0, (2.0,))], 0)
    assert found.figures["decode_tokens_per_second"] is None
    assert found.figures["between_tokens_ms_p50"] is None
    assert found.figures["prefill_tokens_per_second"] == 4
    whole = measured([found], [])
    assert whole.figures["between_tokens_ms_p50"] is None
    assert whole.between_tokens_ms == ()
    assert times_better([found], [found])["decode_tokens_per_second"] is None


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (50, 3), (90, 4.6), (99, 4.96), (100, 5), (12.5, 1.5)]
)
def test_percentiles_lie_on_a_line_between_values(percent, value):
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], percent) == pytest.approx(value)


def run_with(speed, time):
    values = {figure.name: speed if figure.more_is_better else time for figure in FIGURES}
    return Run(1.0, 0, values)


def test_runs_are_told_by_their_middle_and_their_spread():
    runs = [run_with(speed, 2.0) for speed in (5.0, 1.0, 2.0)]
    found = measured(runs, [0.004, 0.002])
    assert found.figures["decode_tokens_per_second"] == Spread(2.0, 1.0, 5.0)
    assert found.figures["first_token_ms_p50"] == Spread(2.0, 2.0, 2.0)
    assert len(found.between_tokens_ms) == 99
    assert found.between_tokens_ms[49] == pytest.approx(3.0)
    assert found.runs == tuple(runs)


def test_better_is_above_one_for_speeds_and_for_times_pair_by_pair():
    ours = [run_with(20.0, 4.0), run_with(30.0, 1.0), run_with(10.0, 1.0)]
    theirs = [run_with(10.0, 2.0), run_with(10.0, 2.0), run_with(10.0, 2.0)]
    times = times_better(ours, theirs)
    for name in ("prefill_tokens_per_second", "requests_per_second"):
        assert times[name] == Spread(2.0, 1.0, 3.0)
    for name in ("first_token_ms_p99", "between_tokens_ms_mean", "peak_memory_bytes"):
        assert times[name] == Spread(2.0, 0.5, 2.0)


# Order of work


class Told:
    """A runner that writes down when it was called, on a clock of its own."""

    description = Description("told", "float32", "none", "none")

    def __init__(self, name, order, seconds=1.0):
        self.name, self.order, self.seconds = name, order, seconds

    def run(self, work):
        self.order.append((self.name, work))
        times = (self.seconds, 2 * self.seconds)
        return [Trace(len(task.prompt), 0.0, times) for task in work.tasks]

    def close(self):
        pass


def test_models_take_turns_run_by_run():
    order, heard = [], []
    works = [Workload((Task((number, 1), 2),), 1) for number in range(3)]
    runners = [(Told("A", order), 10**9), (Told("B", order, 3.0), 0)]
    ours, theirs = in_turn(runners, works, CPU, lambda side, _: heard.append(side))
    assert order == [(name, work) for work in works for name in "AB"]
    assert heard == [0, 1] * 3
    assert len(ours.runs) == len(theirs.runs) == 3
    assert ours.figures["between_tokens_ms_p50"].median == 1000
    assert theirs.figures["between_tokens_ms_p50"].median == 3000
    assert ours.figures["peak_memory_bytes"].least >= 10**9
    assert theirs.figures["peak_memory_bytes"].most < 10**9


# Requests


def test_requests_are_those_of_the_seed_and_none_begins_as_another():
    given = settings(range_ratio=0.5, seed=3)
    load, tokens = Load(50, 4), Tokens(6)
    works = [workload(given, load, tokens, number) for number in range(3)]
    assert works == [workload(given, load, tokens, number) for number in range(3)]
    lengths = [[(len(task.prompt), task.answer) for task in work.tasks] for work in works]
    assert lengths[0] == lengths[1] == lengths[2]
    prompts, answers = zip(*lengths[0], strict=True)
    assert (min(prompts), max(prompts)) == (6, 18)
    assert (min(answers), max(answers)) == (2, 6)
    assert works[0].prompt_tokens == sum(prompts)
    assert works[0].answer_tokens == sum(answers)
    begins = {task.prompt[:3] for work in works for task in work.tasks}
    assert len(begins) == 150
    assert all(0 <= token < 6 for work in works for task in work.tasks for token in task.prompt)
    assert workload(settings(seed=4), load, tokens, 0) != workload(settings(), load, tokens, 0)


def test_requests_of_a_text_are_pieces_of_it(tmp_path):
    file = tmp_path / "some.txt"
    file.write_text(" ".join(random.Random(0).choices(WORDS, k=200)))
    given, tokenizer = settings(dataset=str(file)), load_tokenizer(TOKENIZER)
    tokens = read_tokens(given, tokenizer, 4096, ignore)
    ids = tokenizer(file.read_text())["input_ids"]
    assert tokens.text == tuple(ids[: len(tokens.text)])
    for task in workload(given, Load(20, 1), tokens, 0).tasks:
        piece = task.prompt[3:]
        assert any(tuple(ids[begin : begin + len(piece)]) == piece for begin in range(len(ids)))
    file.write_text("too short")
    with pytest.raises(InputError, match="a prompt has up to 12") as refused:
        read_tokens(given, tokenizer, 4096, ignore)
    assert "--input-len" in refused.value.hint


# Runners


class Spy:
    """Notes how many requests of a runtime are under way in each step, and all its answers."""

    def __init__(self, runtime, monkeypatch, fails_at=None):
        self.live, self.answers, self.fails_at = [], [], fails_at
        self._add, self._step = runtime.add, runtime.step
        monkeypatch.setattr(runtime, "add", self.add)
        monkeypatch.setattr(runtime, "step", self.step)

    def add(self, *arguments):
        self.answers.append(self._add(*arguments))
        return self.answers[-1]

    def step(self):
        if len(self.live) == self.fails_at:
            raise KeyboardInterrupt
        self.live.append(sum(answer.finish is None for answer in self.answers))
        return self._step()


def test_our_engine_keeps_so_many_requests_under_way(llama, monkeypatch):
    work = workload(settings(range_ratio=0.5), Load(7, 3), Tokens(4096), 0)
    runtime, ticks = opened(llama), iter(range(10**6))
    spy = Spy(runtime, monkeypatch)
    traces = RuntimeRunner(runtime, lambda: float(next(ticks))).run(work)
    assert max(spy.live) == 3
    assert set(spy.live[:-8]) == {3}
    for trace, task, answer in zip(traces, work.tasks, spy.answers, strict=True):
        assert trace.prompt == len(task.prompt)
        assert len(trace.tokens) == task.answer == len(answer.tokens)
        assert trace.begun < trace.tokens[0]
        assert list(trace.tokens) == sorted(set(trace.tokens))
    assert traces[0].begun == 0
    assert traces[3].begun > min(trace.tokens[-1] for trace in traces[:3])


def test_nothing_is_found_in_the_cache_of_earlier_runs(llama):
    given = settings(input_len=48)
    runner, tokens = RuntimeRunner(opened(llama)), Tokens(4096)
    for number in range(2):
        traces = runner.run(workload(given, Load(4, 2), tokens, number))
        assert [trace.reused for trace in traces] == [0, 0, 0, 0]
    # The same again would be found: what is checked above is checked.
    again = runner.run(workload(given, Load(4, 2), tokens, 1))
    assert min(trace.reused for trace in again) > 0


def test_a_cache_too_small_for_an_answer_is_an_error_and_leaves_nothing(llama):
    runtime = opened(llama, session_len=32)
    task = Task(tuple(range(20)), 30)
    with pytest.raises(ResourceError, match=r"after 13 of 30 tokens") as refused:
        RuntimeRunner(runtime).run(Workload((task, Task((1, 2), 29)), 2))
    assert "--cache-memory" in refused.value.hint
    assert runtime.idle
    assert runtime.pool.used == 0


def test_a_failure_ends_all_requests(llama, monkeypatch):
    runtime = opened(llama)
    Spy(runtime, monkeypatch, fails_at=2)
    with pytest.raises(KeyboardInterrupt):
        RuntimeRunner(runtime).run(workload(settings(), Load(4, 4), Tokens(4096), 0))
    assert runtime.idle
    assert runtime.pool.used == 0


def test_transformers_answers_in_batches_to_full_length(llama):
    work = workload(settings(range_ratio=0.5, output_len=6), Load(5, 2), Tokens(4096), 0)
    runner = open_transformers(llama, "auto", CPU, trust_remote_code=False)
    written, generate = [], runner._model.generate
    runner._model.generate = lambda *ids, **options: written.append(generate(*ids, **options))
    traces = runner.run(work)
    assert [len(trace.tokens) for trace in traces] == [task.answer for task in work.tasks]
    assert traces[0].begun == traces[1].begun < traces[1].tokens[0]
    assert max(traces[0].tokens[-1], traces[1].tokens[-1]) < traces[2].begun
    # Padding changes nothing: each is what our engine answers to the prompt alone.
    runtime = opened(llama)
    rows = [row[rows.shape[1] - _answer_of(work, at) :].tolist()
            for at, rows in enumerate(written) for row in rows]  # fmt: skip
    for task, row in zip(work.tasks, rows, strict=True):
        greedy = GenerationConfig(task.answer, 0.0, ignore_eos=True)
        answer = runtime.add(task.prompt, greedy)
        while not runtime.idle:
            runtime.step()
        assert row[: task.answer] == answer.tokens


def _answer_of(work, batch):
    """The longest answer of a batch of two."""
    return max(task.answer for task in work.tasks[2 * batch : 2 * batch + 2])


def test_the_dtype_asked_for_is_what_transformers_computes_in(llama):
    for asked, found in (("auto", "float32"), ("bfloat16", "bfloat16")):
        runner = open_transformers(llama, asked, CPU, trust_remote_code=False)
        assert runner.description.dtype == found


# The whole


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
