"""A validation as an HTML page for people."""

from collections.abc import Callable

from mindpress.engine.validation_report import DatasetFigures, ModelFigures, ValidationReport
from mindpress.report.chart import bar_chart
from mindpress.report.html import Html, paragraph
from mindpress.report.numbers import duration, number, size
from mindpress.report.page import Section, page
from mindpress.report.table import Cell, pairs, table

READING = (
    "Perplexity says among how many equally likely tokens the model hesitates: lower is better."
)
COMPARING = (
    " KL divergence says how far its predictions are from the original's on the same text: 0 is"
    " identical. Top-1 is how often both find the same token most likely."
)

COSTS: dict[str, Callable[[ModelFigures], Cell]] = {
    "format": lambda model: model.format,
    "size on disk": lambda model: size(model.bytes),
    "bits per weight": lambda model: number(model.bits_per_weight),
    "computed in": lambda model: model.dtype,
    "prefill, tokens/s": lambda model: number(model.prefill),
    "decode, tokens/s": lambda model: number(model.decode),
    "peak memory": lambda model: size(model.peak_memory),
    "linears in memory": lambda model: model.weights,
    "cache": lambda model: model.cache,
    "cache, bytes per token": lambda model: model.cache_bytes_per_token,
}


def validation_page(report: ValidationReport) -> str:
    """The whole page."""
    subtitle = report.model.path
    if report.original:
        subtitle += f" beside {report.original.path}"
    sections = [_quality(report), _cost(report)]
    if report.caches:
        sections.append(_caches(report))
    sections.append(_run(report))
    if report.notes:
        sections.append(Section("Notes", tuple(paragraph(note) for note in report.notes)))
    return page("Validation", sections, subtitle)


def _quality(report: ValidationReport) -> Section:
    columns = ["text", "perplexity"]
    series = {"this model": [figures.perplexity for figures in report.datasets]}
    if report.original:
        columns += ["original", "change, %", "KL divergence", "top-1, %"]
        series["original"] = [figures.original_perplexity or 0.0 for figures in report.datasets]
    columns.append("windows")
    parts = (
        table(columns, [_quality_row(figures) for figures in report.datasets]),
        bar_chart([figures.dataset for figures in report.datasets], series, axis="perplexity"),
    )
    words = READING + (COMPARING if report.original else "")
    return Section("Quality", parts, words)


def _quality_row(figures: DatasetFigures) -> list[Cell]:
    row: list[Cell] = [figures.dataset, figures.perplexity]
    if figures.original_perplexity is not None:
        change = 100 * (figures.perplexity / figures.original_perplexity - 1)
        agreement = 100 * (figures.top1_agreement or 0.0)
        # Adding zero turns -0.0 into 0.0.
        row += [figures.original_perplexity, round(change, 2) + 0.0]
        row += [figures.kl_divergence, agreement]
    return [*row, figures.windows]


def _cost(report: ValidationReport) -> Section:
    models = [model for model in (report.model, report.original) if model]
    names = ["this model", "original"][: len(models)]
    rows = [[label, *(cell(model) for model in models)] for label, cell in COSTS.items()]
    return Section("Cost", (table(["", *names], rows), *_speed_charts(models, names)))


def _caches(report: ValidationReport) -> Section:
    columns = ["cache", "bytes per token", "of 16 bits, %", "perplexity", "KL divergence",
               "top-1, %", f"tokens in {size(report.cache_memory)}"]  # fmt: skip
    rows: list[list[Cell]] = [
        [found.cache, found.bytes_per_token, 100 * found.share, found.perplexity,
         found.kl_divergence, 100 * found.top1_agreement, found.longest_context]
        for found in report.caches
    ]  # fmt: skip
    beside = "the original" if report.original else "this model with an exact cache"
    words = (
        f"Keys and values kept in fewer bits, on the first {report.caches[0].windows} windows of"
        f" {report.datasets[0].dataset}; divergence and top-1 against {beside}."
    )
    bars = bar_chart(
        [found.cache for found in report.caches],
        {"bytes": [found.bytes_per_token for found in report.caches]},
        axis="bytes per token",
    )
    return Section("Cache of keys and values", (table(columns, rows), bars), words)


def _speed_charts(models: list[ModelFigures], names: list[str]) -> tuple[Html, ...]:
    speeds = {
        name: [model.prefill, model.decode] for name, model in zip(names, models, strict=True)
    }
    return (bar_chart(["prefill", "decode"], speeds, axis="tokens per second"),)


def _run(report: ValidationReport) -> Section:
    lengths = sorted({figures.length for figures in report.datasets})
    values: dict[str, Cell] = {
        "tokens per window": ", ".join(map(str, lengths)),
        "device": report.device,
        "threads": report.threads,
        "speed measured on": f"{report.model.prompt_tokens} tokens of prompt,"
        f" {report.model.new_tokens} new ones",
        "memory while scoring": size(report.scoring_memory),
        "time": duration(report.seconds),
        **report.versions,
    }
    return Section("Run", (pairs(values),))
