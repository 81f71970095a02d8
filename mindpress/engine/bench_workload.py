"""The requests of a measurement: random tokens or pieces of a text, the same for the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from mindpress.calib.datasets import read_text
from mindpress.calib.text_ids import text_ids
from mindpress.engine.bench_settings import Bench, Load
from mindpress.errors import InputError
from mindpress.events import Listener

# Of a text, so many times the tokens that are asked for are read to choose from.
CHOICE = 4


@dataclass(frozen=True, slots=True)
class Task:
    """One request: a prompt, and how many tokens its answer has."""

    prompt: tuple[int, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Tasks in the order in which they are handed over, `at_once` of them under way."""

    tasks: tuple[Task, ...]
    at_once: int

    @property
    def prompt_tokens(self) -> int:
        """Of all tasks."""
        return sum(len(task.prompt) for task in self.tasks)

    @property
    def answer_tokens(self) -> int:
        """Of all tasks."""
        return sum(task.answer for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Where prompts come from: pieces of `text`, or any of `vocab` tokens when there is none."""

    vocab: int
    text: tuple[int, ...] | None = None

    def piece(self, length: int, draw: Random) -> list[int]:
        """So many tokens."""
        if self.text is None:
            return draw.choices(range(self.vocab), k=length)
        begin = draw.randint(0, len(self.text) - length)
        return list(self.text[begin : begin + length])


def read_tokens(settings: Bench, tokenizer: Any, vocab: int, say: Listener) -> Tokens:
    """The tokens of the dataset. InputError when it is shorter than a prompt may be."""
    if settings.dataset is None:
        return Tokens(vocab)
    longest = settings.prompt_range[1]
    wanted = CHOICE * longest * max(load.requests for load in settings.loads)
    ids, _ = text_ids(read_text(settings.dataset, "test", say), tokenizer, wanted)
    if len(ids) < longest:
        raise InputError(
            f"{settings.dataset}: has {len(ids)} tokens, a prompt has up to {longest}",
            hint="lower --input-len, or give a longer text",
        )
    return Tokens(vocab, tuple(ids))


def workloads(settings: Bench, load: Load, tokens: Tokens) -> Iterator[Workload]:
    """The requests of every measured run. Lengths are the same in all of them, tokens are not."""
    for number in range(settings.repeats):
        yield workload(settings, load, tokens, number)


def warm_ups(settings: Bench, load: Load, tokens: Tokens) -> Iterator[Workload]:
    """The requests of every run that is not measured; other ones than those of `workloads`."""
    for number in range(settings.repeats, settings.repeats + settings.warmup):
        yield workload(settings, load, tokens, number)


def workload(settings: Bench, load: Load, tokens: Tokens, number: int) -> Workload:
    """The requests of run `number`: lengths are those of every run, prompts its own.

    No two prompts begin alike, neither in a run nor in several: otherwise pages of the cache that
    hold the beginning of an earlier one would be found, and less be computed than is counted.
    """
    lengths = Random(f"lengths {settings.seed}")
    draw = Random(f"tokens {settings.seed} {number}")
    tasks = []
    for index in range(load.requests):
        prompt = tokens.piece(lengths.randint(*settings.prompt_range), draw)
        _mark(prompt, number * load.requests + index, tokens.vocab)
        tasks.append(Task(tuple(prompt), lengths.randint(*settings.answer_range)))
    return Workload(tuple(tasks), load.at_once)


def _mark(prompt: list[int], number: int, vocab: int) -> None:
    """Write the number of the request into the first tokens, as far as there are any."""
    for place in range(min(3, len(prompt))):
        prompt[place] = number % vocab
        number //= vocab
