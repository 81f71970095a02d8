"""A comparison as an HTML page for people."""

from mindpress.engine.compare_report import CompareReport
from mindpress.engine.validation_page import COMPARING, COSTS, READING
from mindpress.report.chart import bar_chart
from mindpress.report.html import paragraph
from mindpress.report.numbers import duration, size
from mindpress.report.page import Section, page
from mindpress.report.table import Cell, pairs, table

MEBIBYTE = 2**20


def compare_page(report: CompareReport) -> str:
    """The whole page."""
    sections = [_quality(report), _cost(report), _run(report)]
    if report.notes:
        sections.append(Section("Notes", tuple(paragraph(note) for note in report.notes)))
    return page("Comparison", sections, f"against {report.original.path}")


def _quality(report: CompareReport) -> Section:
    texts = [found.dataset for found in report.models[0].datasets]
    columns = ["model", "text", "perplexity", "original", "KL divergence", "top-1, %", "windows"]
    rows: list[list[Cell]] = [
        [model.name, found.dataset, found.perplexity, found.original_perplexity,
         found.kl_divergence, 100 * (found.top1_agreement or 0.0), found.windows]
        for model in report.models
        for found in model.datasets
    ]  # fmt: skip
    series = {
        text: [model.datasets[place].kl_divergence for model in report.models]
        for place, text in enumerate(texts)
    }
    chart = bar_chart([model.name for model in report.models], series, axis="KL divergence, nats")
    return Section("Quality", (chart, table(columns, rows)), READING + COMPARING)


def _cost(report: CompareReport) -> Section:
    models = [*(model.figures for model in report.models), report.original]
    names = [*(model.name for model in report.models), "original"]
    rows = [[label, *(cell(model) for model in models)] for label, cell in COSTS.items()]
    sizes = {"size": [round(model.bytes / MEBIBYTE, 3) for model in models]}
    speeds = {
        "prefill": [model.prefill for model in models],
        "decode": [model.decode for model in models],
    }
    charts = (
        bar_chart(names, sizes, axis="size on disk, MiB"),
        bar_chart(names, speeds, axis="tokens per second"),
    )
    return Section("Cost", (charts[0], table(["", *names], rows), charts[1]))


def _run(report: CompareReport) -> Section:
    found = report.models[0]
    lengths = sorted({text.length for text in found.datasets})
    values: dict[str, Cell] = {
        **{model.name: model.figures.path for model in report.models},
        "tokens per window": ", ".join(map(str, lengths)),
        "device": report.device,
        "threads": report.threads,
        "speed measured on": f"{found.figures.prompt_tokens} tokens of prompt,"
        f" {found.figures.new_tokens} new ones",
        "memory while scoring": size(max(model.scoring_memory for model in report.models)),
        "time": duration(report.seconds),
        **report.versions,
    }
    words = (
        "The original stayed in memory beside one model at a time; its predictions were computed"
        " again for each."
    )
    return Section("Run", (pairs(values),), words)
