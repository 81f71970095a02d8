"""The result of a measurement of speed: values, and the files they are kept in."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindpress.engine.bench_figures import Measured, Spread
from mindpress.engine.bench_runners import Description
from mindpress.engine.report_files import check_output, plain, save_report
from mindpress.errors import ConfigError

JSON_FILE = "bench.json"
HTML_FILE = "bench.html"
MARK = "mindpress bench"


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model that was measured. `loading_peak_bytes` is what loading it took, `held_bytes` what
    it and its cache hold since, both above what was held before."""

    path: str
    runs_on: Description
    loading_seconds: float
    loading_peak_bytes: int
    held_bytes: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """All figures under one load. `times` say how many times better `model` is than `against`."""

    requests: int
    at_once: int
    prompt_tokens: int
    answer_tokens: int
    model: Measured
    against: Measured | None = None
    times: dict[str, Spread | None] | None = None

    @property
    def name(self) -> str:
        """For people."""
        if self.requests == self.at_once:
            return f"batch {self.requests}"
        return f"{self.requests} requests, {self.at_once} at once"


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Everything about one measurement; `against` is None when there was nothing beside it.

    `settings` are those of `Bench`. `folder` is where it was saved.
    """

    kind: str
    model: BenchModel
    against: BenchModel | None
    loads: tuple[LoadReport, ...]
    device: str
    threads: int
    seconds: float
    versions: dict[str, str]
    settings: dict[str, Any]
    command: str
    notes: tuple[str, ...] = ()
    folder: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {"report": MARK} | plain(self)


def check_folder(folder: Path) -> None:
    """Refuse a place where the report cannot be written, or where another file would be lost."""
    check_output(folder)
    there = [name for name in (JSON_FILE, HTML_FILE) if (folder / name).exists()]
    if there and not _is_ours(folder / JSON_FILE):
        raise ConfigError(
            f"--output {folder}: its {there[0]} is not by `mindpress bench`",
            hint="name another folder",
        )


def save(report: BenchReport, html: str, folder: Path) -> None:
    """Write both files, each whole or not at all, in place of older ones of ours."""
    check_folder(folder)
    save_report(folder, report.as_dict(), html, "bench")


def _is_ours(file: Path) -> bool:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("report") == MARK
