"""The models of a measurement: checked first, then in memory and warm."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mindpress.checkpoint.companions import load_tokenizer
from mindpress.checkpoint.hub import local_folder
from mindpress.engine.bench_report import BenchModel
from mindpress.engine.bench_runners import Runner, RuntimeRunner
from mindpress.engine.bench_settings import TRANSFORMERS, Bench
from mindpress.engine.bench_workload import Tokens, Workload, read_tokens
from mindpress.engine.context import context_length
from mindpress.engine.machine import held_bytes
from mindpress.engine.memory import PeakMemory
from mindpress.engine.opening import open_runtime
from mindpress.engine.runtime import Runtime
from mindpress.engine.vocabulary import check_ids
from mindpress.events import Advanced, Finished, Listener, Note, Started, ignore
from mindpress.sources.inspect import inspect_path
from mindpress.sources.opening import open_source

# Parameters of a model that loads and runs in a moment.
SMALL = 50_000_000


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that was checked; its weights are still on disk."""

    path: str
    folder: Path
    vocab: int
    context: int | None
    open: Callable[[Listener], Runner]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory that has warmed up."""

    runner: Runner
    model: BenchModel


def find_subjects(settings: Bench, device: torch.device) -> list[Subject]:
    """The model, and the other one if there is one. InputError or ConfigError when one of them
    cannot be run, or not with requests of that length. Reads no weights."""
    folder = local_folder(
        settings.path, revision=settings.revision, download_dir=settings.download_dir
    )
    subjects = [_ours(settings.path, folder, settings)]
    if settings.against is not None:
        path = settings.against.removeprefix(TRANSFORMERS)
        folder = local_folder(path, download_dir=settings.download_dir)
        plain = settings.against.startswith(TRANSFORMERS)
        subjects.append(
            _theirs(settings.against, folder, settings, device)
            if plain
            else _ours(settings.against, folder, settings)
        )
    for subject in subjects:
        if subject.context is not None:
            settings.check_room(subject.context, f"the context of {subject.path}")
    return subjects


def find_tokens(settings: Bench, subjects: Sequence[Subject], say: Listener) -> Tokens:
    """Where prompts come from: a text is read with the first model's tokenizer."""
    vocab = min(subject.vocab for subject in subjects)
    tokenizer: Any = None
    if settings.dataset is not None:
        beside = open_source(subjects[0].folder).tokenizer_folder
        tokenizer = load_tokenizer(beside, trust_remote_code=settings.trust_remote_code)
    tokens = read_tokens(settings, tokenizer, vocab, say)
    check_ids(max(tokens.text or (0,)), vocab)
    return tokens


def into_memory(
    subject: Subject, works: Sequence[Workload], device: torch.device, say: Listener
) -> Loaded:
    """Read the weights and run `works` unmeasured.

    What a small model takes would vanish beside the code and threads that the first run of a
    process loads: it is loaded and run once before, for nothing.
    """
    if (inspect_path(subject.folder).parameters or 0) < SMALL:
        _rehearse(subject, works)
    before, begun = held_bytes(device), time.perf_counter()
    with PeakMemory(device) as peak:
        runner = subject.open(say)
    seconds = time.perf_counter() - begun
    try:
        _warm_up(runner, works, say)
    except BaseException:
        runner.close()
        raise
    held = max(0, held_bytes(device) - before)
    return Loaded(runner, BenchModel(subject.path, runner.description, seconds, peak.bytes, held))


def _warm_up(runner: Runner, works: Sequence[Workload], say: Listener) -> None:
    if not works:
        return
    begun = time.perf_counter()
    say(Started("warm up", len(works), "run"))
    for done, work in enumerate(works, 1):
        runner.run(work)
        say(Advanced(done))
    say(Finished(time.perf_counter() - begun))


def _rehearse(subject: Subject, works: Sequence[Workload]) -> None:
    runner = subject.open(ignore)
    try:
        for work in works[:1]:
            runner.run(work)
    finally:
        runner.close()


def _ours(path: str, folder: Path, settings: Bench) -> Subject:
    shape = open_source(folder).shape
    return Subject(
        path,
        folder,
        shape.vocab,
        context_length(shape),
        lambda say: RuntimeRunner(_opened(folder, settings, say)),
    )


def _opened(folder: Path, settings: Bench, say: Listener) -> Runtime:
    runtime = open_runtime(folder, settings.running, say)
    room = runtime.memory.pages * runtime.memory.tokens
    at_once = max(load.at_once for load in settings.loads)
    if room < at_once * settings.longest:
        say(
            Note(
                f"the cache holds {room} tokens, {at_once} requests of {settings.longest} do not"
                " fit: some wait, or are read again",
                "warning",
            )
        )
    return runtime


def _theirs(path: str, folder: Path, settings: Bench, device: torch.device) -> Subject:
    from mindpress.engine.bench_transformers import open_transformers, read_config

    trust, dtype = settings.trust_remote_code, settings.engine.dtype
    config = read_config(folder, trust_remote_code=trust).get_text_config()

    def opened(say: Listener) -> Runner:
        begun = time.perf_counter()
        say(Started("load by transformers", 1, "model"))
        runner = open_transformers(folder, dtype, device, trust_remote_code=trust)
        say(Finished(time.perf_counter() - begun))
        return runner

    longest = getattr(config, "max_position_embeddings", None)
    return Subject(path, folder, config.vocab_size, longest, opened)
