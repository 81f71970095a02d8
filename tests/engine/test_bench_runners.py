"""The requests of a benchmark, and our engine and transformers that answer them, in turn."""

import random

import pytest
from tiny_bench import CPU, WORDS, opened, save_ending, settings
from tiny_models import TOKENIZER

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.bench_figures import Trace
from mindpress.engine.bench_measure import in_turn
from mindpress.engine.bench_runners import Description, RuntimeRunner
from mindpress.engine.bench_settings import Load
from mindpress.engine.bench_transformers import open_transformers
from mindpress.engine.bench_workload import Task, Tokens, Workload, read_tokens, workload
from mindpress.engine.config import GenerationConfig
from mindpress.errors import InputError, ResourceError
from mindpress.events import ignore


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_ending(tmp_path_factory.mktemp("bench") / "model")


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
