"""A measurement of speed as an HTML page for people."""

from collections.abc import Mapping, Sequence

from mindpress.engine.bench_figures import FIGURES, Measured
from mindpress.engine.bench_report import BenchReport, LoadReport
from mindpress.engine.bench_words import label, shown, shown_times
from mindpress.report.chart import bar_chart, line_chart
from mindpress.report.html import Html, code, paragraph
from mindpress.report.numbers import duration, size
from mindpress.report.page import Section, page
from mindpress.report.table import Cell, pairs, table

READING = (
    "The middle of all runs, with the least and the most in brackets. Prefill is the reading of"
    " prompts, decode the writing of answers while no prompt is read, output in all the tokens of"
    " answers by the time of the whole run."
)
TIMES = (
    " Runs of both models took turns; times better compares each run with the one beside it, above"
    " 1 this model is faster or smaller."
)
CHARTS = ("decode_tokens_per_second", "prefill_tokens_per_second")
SPEEDS = {figure.name: figure for figure in FIGURES if figure.name in CHARTS}


def bench_page(report: BenchReport) -> str:
    """The whole page."""
    subtitle = report.model.path
    if report.against:
        subtitle += f" beside {report.against.path}"
    sections = [_speed(report), *(_load(report, load) for load in report.loads)]
    sections += [_models(report), _run(report)]
    if report.notes:
        sections.append(Section("Notes", tuple(paragraph(note) for note in report.notes)))
    return page(f"Speed: {report.kind}", sections, subtitle)


def _speed(report: BenchReport) -> Section:
    loads = [load.name for load in report.loads]
    charts = []
    for name in CHARTS:
        series = {"this model": [_middle(load.model, name) for load in report.loads]}
        if report.against:
            series[report.against.path] = [_middle(load.against, name) for load in report.loads]
        figure = SPEEDS[name]
        charts.append(bar_chart(loads, series, axis=f"{figure.label}, {figure.unit}"))
    return Section("Speed", tuple(charts), READING + (TIMES if report.against else ""))


def _load(report: BenchReport, load: LoadReport) -> Section:
    columns, rows = ["", "this model"], [[label(figure)] for figure in FIGURES]
    for figure, row in zip(FIGURES, rows, strict=True):
        row.append(shown(figure, load.model.figures[figure.name]))
        if load.against and load.times:
            row.append(shown(figure, load.against.figures[figure.name]))
            row.append(shown_times(load.times[figure.name]))
    if report.against:
        columns += [report.against.path, "times better"]
    return Section(load.name, (table(columns, rows), *_between(report, load)))


def _between(report: BenchReport, load: LoadReport) -> tuple[Html, ...]:
    """How long tokens took: the fastest at the left, the slowest at the right."""
    series: dict[str, Sequence[float | None]] = {"this model": load.model.between_tokens_ms}
    if report.against and load.against:
        series[report.against.path] = load.against.between_tokens_ms
    if not all(series.values()):
        return ()
    drawn: Mapping[str, Sequence[float | None]] = series
    axis = "percentile of the time between tokens"
    return (line_chart(drawn, x_axis=axis, y_axis="ms", start=1),)


def _models(report: BenchReport) -> Section:
    models = [model for model in (report.model, report.against) if model]
    rows: list[list[Cell]] = [
        ["runs on", *(model.runs_on.engine for model in models)],
        ["computed in", *(model.runs_on.dtype for model in models)],
        ["linears in memory", *(model.runs_on.weights for model in models)],
        ["cache", *(model.runs_on.cache for model in models)],
        ["loaded in", *(duration(model.loading_seconds) for model in models)],
        ["peak memory of loading", *(size(model.loading_peak_bytes) for model in models)],
        ["memory held since", *(size(model.held_bytes) for model in models)],
    ]
    return Section("Models", (table(["", *(model.path for model in models)], rows),))


def _run(report: BenchReport) -> Section:
    given = report.settings
    values: dict[str, Cell] = {
        "prompts": given["dataset"] or "random tokens",
        "tokens of a prompt": given["input_len"],
        "tokens of an answer": given["output_len"],
        "range ratio": given["range_ratio"],
        "runs": f"{given['repeats']} measured after {given['warmup']} to warm up",
        "seed": given["seed"],
        "device": report.device,
        "threads": report.threads,
        "time": duration(report.seconds),
        **report.versions,
    }
    command = (code(report.command),) if report.command else ()
    return Section("Run", (pairs(values), *command))


def _middle(measured: Measured | None, name: str) -> float | None:
    found = measured.figures[name] if measured else None
    return found.median if found else None
