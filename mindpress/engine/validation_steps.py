"""The steps that every measuring of a model consists of: open, check, read texts, load, score."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mindpress.calib.datasets import read_text
from mindpress.calib.text_ids import text_ids
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.checkpoint.hub import local_folder
from mindpress.checkpoint.journal import fingerprint
from mindpress.checkpoint.verify import verify_weights
from mindpress.device import choose_device
from mindpress.engine.compare_settings import Comparison
from mindpress.engine.config import EngineConfig
from mindpress.engine.context import context_length
from mindpress.engine.decoder import Decoder
from mindpress.engine.kept import Kept, described
from mindpress.engine.loader import load_decoder
from mindpress.engine.machine import device_name, versions
from mindpress.engine.memory import PeakMemory, device_errors
from mindpress.engine.perplexity import Windows, cut_windows, score_windows
from mindpress.engine.settings import Validation
from mindpress.engine.throughput import measure
from mindpress.engine.validation_report import DatasetFigures, ModelFigures
from mindpress.engine.vocabulary import check_ids
from mindpress.errors import ConfigError, InputError, NumericError
from mindpress.events import Listener, Note
from mindpress.sources.inspect import Inspection, inspect_path
from mindpress.sources.opening import open_source
from mindpress.sources.source import ModelSource

# Parameters of a model that loads and runs in a moment.
SMALL = 50_000_000


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that was opened; its weights are still on disk."""

    path: str
    source: ModelSource
    tokenizer: Any
    inspection: Inspection


@dataclass(frozen=True, slots=True)
class Text:
    """The windows of a dataset to score, of `available` ones; None: nobody counted them all."""

    dataset: str
    windows: Windows
    available: int | None


def open_subject(path: str, settings: Validation, revision: str | None = None) -> Subject:
    """Open and check a model, its tokenizer included. Reads no weights."""
    folder = local_folder(path, revision=revision, download_dir=settings.download_dir)
    source = open_source(folder)
    tokenizer = load_tokenizer(
        source.tokenizer_folder, trust_remote_code=settings.trust_remote_code
    )
    return Subject(path, source, tokenizer, inspect_path(folder))


def check_same_vocabulary(model: Subject, original: Subject) -> None:
    """Distributions can be compared over the same tokens only."""
    ours, theirs = model.source.shape.vocab, original.source.shape.vocab
    if ours != theirs:
        raise ConfigError(
            f"--against {original.path}: its vocabulary has {theirs} tokens,"
            f" that of {model.path} has {ours}",
            hint="compare with the model it was made from",
        )
    if model.tokenizer.get_vocab() != original.tokenizer.get_vocab():
        raise ConfigError(
            f"--against {original.path}: its tokenizer is not that of {model.path}",
            hint="compare with the model it was made from",
        )


def read_texts(settings: Validation, subjects: Sequence[Subject], say: Listener) -> list[Text]:
    """The datasets in windows that every one of `subjects` can read; all have one vocabulary."""
    longest = min(context_length(subject.source.shape) for subject in subjects)
    length = min(settings.length, longest)
    if length < settings.length:
        say(Note(f"windows have {length} tokens, the model's maximum, not {settings.length}"))
    return [_text(name, length, settings.limit, subjects[0], say) for name in settings.datasets]


def _text(name: str, length: int, limit: int | None, model: Subject, say: Listener) -> Text:
    # One window more than is scored shows that there are more.
    enough = None if limit is None else (limit + 1) * length
    found, complete = text_ids(read_text(name, "test", say), model.tokenizer, enough)
    ids = torch.tensor(found, dtype=torch.int64)
    if len(ids) < 2:
        raise InputError(f"{name}: has {len(ids)} tokens, at least 2 are needed")
    check_ids(int(ids.max()), model.source.shape.vocab)
    if len(ids) < length:
        say(Note(f"{name} has {len(ids)} tokens only: it is scored as one window"))
        length = len(ids)
    windows = cut_windows(ids, length)
    if limit is not None and limit < len(windows):
        of = f" of {len(windows)}" if complete else ""
        say(Note(f"{name}: the first {limit}{of} windows are scored"))
    return Text(name, windows[:limit], len(windows) if complete else None)


def run_fingerprint(
    settings: Validation | Comparison, subjects: Sequence[Subject], texts: Sequence[Text]
) -> str:
    """A fingerprint of all that figures depend on: only the same run is gone on with."""
    asked = replace(settings, output=Path(), overwrite=False)
    device = device_name(choose_device(settings.device))
    words = [(text.dataset, text.windows.shape, text.windows.numpy().tobytes()) for text in texts]
    models = [described(subject.source) for subject in subjects]
    return fingerprint(asked, device, versions(), words, models, files=[])


def warm_up(subject: Subject, settings: Validation) -> None:
    """Run a small model once unmeasured: the first in a process also pays for code and threads
    loaded on first use, which would count as its own memory. Large models hide that.
    """
    if (subject.inspection.parameters or 0) < SMALL:
        measure(load_decoder(subject.source, settings.engine))


def measure_subject(
    subject: Subject, engine: EngineConfig, say: Listener, kept: Kept
) -> tuple[Decoder, ModelFigures]:
    """Load a model, and what it costs, which is not measured again when it stands in `kept`.

    InputError where weights are not those that their hashes were taken of.

    Peak memory: as `load_decoder` says.
    """
    verify_weights(Path(subject.inspection.path), say)
    earlier = kept.get("figures")
    if earlier:
        return _loaded(subject, engine, say), ModelFigures(**earlier)
    device = choose_device(engine.device)
    with PeakMemory(device) as peak:
        decoder = _loaded(subject, engine, say)
        speed = measure(decoder)
    figures = ModelFigures(
        path=subject.path,
        format=subject.inspection.format or subject.inspection.kind,
        bytes=subject.inspection.bytes or 0,
        bits_per_weight=subject.inspection.bits_per_weight or 0.0,
        dtype=str(decoder.dtype).removeprefix("torch."),
        prefill=speed.prefill,
        decode=speed.decode,
        prompt_tokens=speed.prompt,
        new_tokens=speed.new,
        peak_memory=peak.bytes,
        cache=decoder.cache_plan.describe(decoder.dtype),
        cache_bytes_per_token=decoder.new_cache().bytes_per_token,
        weights=decoder.weights,
    )
    kept.put("figures", asdict(figures))
    return decoder, figures


def _loaded(subject: Subject, engine: EngineConfig, say: Listener) -> Decoder:
    """Its weights in memory; errors say which of several models they are of."""
    try:
        return load_decoder(subject.source, engine, say)
    except NumericError as error:
        raise NumericError(f"{subject.path}: {error}", hint=error.hint) from None


def score_texts(
    decoder: Decoder, texts: Sequence[Text], other: Decoder | None, say: Listener, kept: Kept
) -> tuple[tuple[DatasetFigures, ...], int]:
    """How well a model predicts the texts, beside the `other` one, and the peak memory of that in
    bytes above what was held before. What stands in `kept` is not scored again.
    """
    figures, most = [], 0
    for number, text in enumerate(texts):
        part = kept.below(f"text {number}")
        with peak_kept(decoder.device, part) as peak:
            figures.append(_scored(decoder, text, other, say, part))
        most = max(most, peak.bytes)
    return tuple(figures), most


@contextmanager
def peak_kept(device: torch.device, kept: Kept) -> Iterator[PeakMemory]:
    """The peak of the work inside, or that of an earlier run of it where that was more."""
    with PeakMemory(device) as peak, device_errors():
        yield peak
    peak.bytes = max(peak.bytes, kept.get("peak") or 0)
    kept.put("peak", peak.bytes)


def _scored(
    decoder: Decoder, text: Text, other: Decoder | None, say: Listener, kept: Kept
) -> DatasetFigures:
    score = score_windows(decoder, text.windows, other, name=text.dataset, listener=say, kept=kept)
    return DatasetFigures(
        dataset=text.dataset,
        windows=len(text.windows),
        of_windows=text.available,
        length=text.windows.shape[1],
        tokens=score.tokens,
        perplexity=score.perplexity,
        original_perplexity=score.other_perplexity,
        kl_divergence=score.divergence,
        top1_agreement=score.agreement,
    )
