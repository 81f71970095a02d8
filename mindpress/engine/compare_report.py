"""The result of a comparison: values, and the files they are kept in."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindpress.engine.validation_report import DatasetFigures, ModelFigures, save_files

JSON_FILE = "compare.json"
HTML_FILE = "compare.html"


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One model: what it costs, and how well it predicts each text beside the original.

    `scoring_memory` is the peak while texts were scored, in bytes above the two models.
    """

    name: str
    figures: ModelFigures
    datasets: tuple[DatasetFigures, ...]
    scoring_memory: int


@dataclass(frozen=True, slots=True)
class CompareReport:
    """All figures of a comparison, the models in the order they were given in."""

    original: ModelFigures
    models: tuple[ComparedModel, ...]
    device: str
    threads: int
    seconds: float
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    output: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        values = asdict(self)
        values["notes"] = list(self.notes)
        values["models"] = list(values["models"])
        for model in values["models"]:
            model["datasets"] = list(model["datasets"])
        return values


def short_names(paths: Sequence[str]) -> list[str]:
    """The last pieces of the paths, as many of each as tell it from the others."""
    pieces = [Path(path).parts or (path,) for path in paths]
    for count in range(1, max(map(len, pieces)) + 1):
        names = ["/".join(parts[-count:]) for parts in pieces]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def save(report: CompareReport, html: str, folder: Path) -> None:
    """Write both files of a comparison."""
    values = json.dumps(report.as_dict(), indent=2) + "\n"
    save_files(folder, {JSON_FILE: values, HTML_FILE: html})
