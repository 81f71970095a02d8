"""A validation as an HTML page for people."""

from collections.abc import Iterator

from mindpress.engine.validation_report import DatasetFigures, ModelFigures, ValidationReport
from mindpress.report.chart import bar_chart
from mindpress.report.html import Html
from mindpress.report.numbers import duration, number, percent, size
from mindpress.report.page import Section, page
from mindpress.report.table import Cell, pairs, table

READING = (
    "Perplexity says among how many equally likely tokens the model hesitates: lower is better."
)
COMPARING = (
    " KL divergence says how far its predictions are from the original's on the same text: 0 is"
    " identical. Top-1 is how often both find the same token most likely."
)


def validation_page(report: ValidationReport) -> str:
    """The whole page."""
    subtitle = report.model.path
    if report.original:
        subtitle += f" beside {report.original.path}"
    sections = [_quality(report), _cost(report), _run(report)]
    if report.notes:
        sections.append(Section("Notes", (), " ".join(report.notes)))
    return page("Validation", sections, subtitle)


def _quality(report: ValidationReport) -> Section:
    columns = ["text", "perplexity"]
    series = {"this model": [figures.perplexity for figures in report.datasets]}
    if report.original:
        columns += ["original", "change", "KL divergence", "top-1"]
        series["original"] = [figures.original_perplexity or 0.0 for figures in report.datasets]
    columns += ["windows", "tokens each"]
    parts = (
        table(columns, [_quality_row(figures) for figures in report.datasets]),
        bar_chart([figures.dataset for figures in report.datasets], series, axis="perplexity"),
    )
    words = READING + (COMPARING if report.original else "")
    return Section("Quality", parts, words)


def _quality_row(figures: DatasetFigures) -> list[Cell]:
    row: list[Cell] = [figures.dataset, figures.perplexity]
    if figures.original_perplexity is not None:
        change = figures.perplexity / figures.original_perplexity - 1
        row += [
            figures.original_perplexity,
            f"{100 * change:+.2f} %",
            figures.kl_divergence,
            percent(figures.top1_agreement or 0.0),
        ]
    return [*row, f"{figures.windows} of {figures.of_windows}", figures.length]


def _cost(report: ValidationReport) -> Section:
    models = [model for model in (report.model, report.original) if model]
    names = ["this model", "original"][: len(models)]
    rows = [
        [label, *cells]
        for label, *cells in zip(
            *([("format", "size on disk", "bits per weight", "computed in", "prefill, tokens/s",
                "decode, tokens/s", "peak memory")]
              + [tuple(_cost_cells(model)) for model in models]),
            strict=True,
        )
    ]  # fmt: skip
    return Section("Cost", (table(["", *names], rows), *_speed_charts(models, names)))


def _cost_cells(model: ModelFigures) -> Iterator[Cell]:
    yield from (model.format, size(model.bytes), number(model.bits_per_weight), model.dtype)
    yield from (number(model.prefill), number(model.decode), size(model.peak_memory))


def _speed_charts(models: list[ModelFigures], names: list[str]) -> tuple[Html, ...]:
    speeds = {
        name: [model.prefill, model.decode] for name, model in zip(names, models, strict=True)
    }
    return (bar_chart(["prefill", "decode"], speeds, axis="tokens per second"),)


def _run(report: ValidationReport) -> Section:
    values: dict[str, Cell] = {
        "device": report.device,
        "threads": report.threads,
        "speed measured on": f"{report.model.prompt_tokens} tokens of prompt,"
        f" {report.model.new_tokens} new ones",
        "memory while scoring": size(report.scoring_memory),
        "time": duration(report.seconds),
        **report.versions,
    }
    return Section("Run", (pairs(values),))
