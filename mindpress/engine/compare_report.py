"""The result of a comparison: values, and the files they are kept in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindpress.engine.report_files import plain, save_report
from mindpress.engine.validation_report import DatasetFigures, ModelFigures


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
        return plain(self)


def compared_from(values: Mapping[str, Any]) -> ComparedModel:
    """The model that `plain` made these values of."""
    return ComparedModel(
        name=values["name"],
        figures=ModelFigures(**values["figures"]),
        datasets=tuple(DatasetFigures(**found) for found in values["datasets"]),
        scoring_memory=values["scoring_memory"],
    )


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
    save_report(folder, report.as_dict(), html, "compare")
