"""The result of a validation: values, and the files they are kept in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindpress.engine.cache_figures import CacheFigures
from mindpress.engine.report_files import plain, save_report


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
        return plain(self)


def save(report: ValidationReport, html: str, folder: Path) -> None:
    """Write both files of a validation."""
    save_report(folder, report.as_dict(), html, "validation")
