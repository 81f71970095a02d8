"""The result of a validation: values, and the files they are kept in."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mindpress.engine.cache_figures import CacheFigures
from mindpress.errors import ConfigError, ResourceError

JSON_FILE = "validation.json"
HTML_FILE = "validation.html"


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What one model costs. Speeds are tokens per second of one sequence: of `prompt_tokens` read,
    and of `new_tokens` written after them.

    `cache` says how keys and values are kept, `weights` how the linears are. `peak_memory` is what
    loading it and generating took, in bytes above what was held before.
    """

    path: str
    format: str
    bytes: int
    bits_per_weight: float
    dtype: str
    prefill: float
    decode: float
    prompt_tokens: int
    new_tokens: int
    peak_memory: int
    cache: str
    cache_bytes_per_token: int
    weights: str


@dataclass(frozen=True, slots=True)
class DatasetFigures:
    """How well the model predicts one text, in windows of `length` tokens.

    `of_windows` is None when a limit ended the reading of the text before its end.
    """

    dataset: str
    windows: int
    of_windows: int | None
    length: int
    tokens: int
    perplexity: float
    original_perplexity: float | None
    kl_divergence: float | None
    top1_agreement: float | None


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """All figures of a validation; `original` is None when there was nothing to compare with.

    `caches` are empty when they were not asked for; `cache_memory` is in bytes.

    `scoring_memory` is the peak while both models stood in memory and the texts were scored, in
    bytes above what they held before.
    """

    model: ModelFigures
    original: ModelFigures | None
    datasets: tuple[DatasetFigures, ...]
    caches: tuple[CacheFigures, ...]
    cache_memory: int
    device: str
    threads: int
    scoring_memory: int
    seconds: float
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    output: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        values = asdict(self)
        values["datasets"] = list(values["datasets"])
        values["caches"] = list(values["caches"])
        values["notes"] = list(values["notes"])
        return values


def check_output(folder: Path) -> None:
    """Refuse a place where the report cannot be written. Leaves nothing behind."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder}: is a file", hint="name a folder")
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ResourceError(
            f"{place}: cannot be written: {error.strerror}",
            hint="name another folder with --output",
        ) from None


def save(report: ValidationReport, html: str, folder: Path) -> None:
    """Write both files of a validation."""
    values = json.dumps(report.as_dict(), indent=2) + "\n"
    save_files(folder, {JSON_FILE: values, HTML_FILE: html})


def save_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files by their names, each whole or not at all, in place of older ones."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(folder / name, text)
    except OSError as error:
        raise ResourceError(f"{folder}: the report cannot be written: {error.strerror}") from None


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
