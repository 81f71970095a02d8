"""`mindpress compare`: several models side by side, each against the original."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindpress.cli.console import Console
from mindpress.cli.options import (
    AfreshOpt,
    DeviceOpt,
    DownloadDirOpt,
    DryRunOpt,
    JsonOpt,
    KernelsOpt,
    QuietOpt,
    RunDtypeOpt,
    ThreadsOpt,
    TrustOpt,
)
from mindpress.cli.progress import Progress
from mindpress.cli.validate import DatasetsOpt, LengthOpt, LimitOpt, show_plan
from mindpress.engine.compare_settings import Comparison
from mindpress.report.numbers import counted, duration, number, percent, size

if TYPE_CHECKING:
    from mindpress.engine.compare_report import CompareReport
    from mindpress.engine.validation_report import ModelFigures

PathsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH PATH...",
        help="Two or more: folders of models, workspaces of `convert`, or ids on the Hub.",
    ),
]
OriginalOpt = Annotated[
    str,
    typer.Option("--against", help="The original of them all: its folder, or its id on the Hub."),
]
OutputOpt = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for compare.html and compare.json.")
]
COSTS: "dict[str, Callable[[ModelFigures], str]]" = {
    "size on disk": lambda m: size(m.bytes),
    "bits per weight": lambda m: number(m.bits_per_weight),
    "reading, tokens/s": lambda m: number(m.prefill),
    "writing, tokens/s": lambda m: number(m.decode),
    "peak memory": lambda m: size(m.peak_memory),
    "linears in memory": lambda m: m.weights,
}


def compare(
    paths: PathsArg,
    against: OriginalOpt,
    dataset: DatasetsOpt = None,
    seqlen: LengthOpt = 2048,
    limit: LimitOpt = None,
    output: OutputOpt = Path("comparison"),
    device: DeviceOpt = "auto",
    dtype: RunDtypeOpt = "auto",
    threads: ThreadsOpt = None,
    kernels: KernelsOpt = "auto",
    download_dir: DownloadDirOpt = None,
    trust_remote_code: TrustOpt = False,
    dry_run: DryRunOpt = False,
    overwrite: AfreshOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure several quantized models side by side.

    Perplexity, distance from the original's predictions, size, speed and memory of each, on the
    same text. Two models are in memory at a time, the original and one other; the original's
    predictions are computed again for each. Shows a table and saves a page.
    """
    from mindpress.engine.compare import compare as compare_models
    from mindpress.engine.compare import plan_comparison

    chosen = {"datasets": tuple(dataset)} if dataset else {}
    settings = Comparison(
        paths=tuple(paths),
        against=against,
        length=seqlen,
        limit=limit,
        device=device,
        dtype=dtype,
        threads=threads,
        kernels=kernels,
        output=output,
        download_dir=download_dir,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
        **chosen,
    )
    console = Console(as_json=json, quiet=quiet)
    if dry_run:
        with Progress(console) as listener:
            plan = plan_comparison(settings, listener)
        show_plan(plan, output, console)
        return
    with Progress(console) as listener:
        report = compare_models(settings, listener)
    console.result(report.as_dict())
    show(report, console)


def show(report: "CompareReport", console: Console) -> None:
    """A column for each model, the original last, and where the page is."""
    console.heading(f"Against {report.original.path}")
    console.pairs({model.name: model.figures.format for model in report.models})
    console.text()
    console.table(
        ["", *(model.name for model in report.models), "original"],
        [*_quality(report), *_costs(report)],
    )
    console.text(
        f"\n{report.device}, {counted(report.threads, 'thread')}, {duration(report.seconds)}; "
        f"report: {Path(report.output) / 'compare.html'}"
    )


def _quality(report: "CompareReport") -> list[list[str]]:
    rows = []
    for place, first in enumerate(report.models[0].datasets):
        found = [model.datasets[place] for model in report.models]
        perplexities = [*(one.perplexity for one in found), first.original_perplexity]
        rows += [
            [f"perplexity, {first.dataset}", *map(number, perplexities)],
            [f"KL divergence, {first.dataset}", *(number(one.kl_divergence) for one in found), ""],
            [f"same top token, {first.dataset}",
             *(percent(one.top1_agreement or 0.0) for one in found), ""],
        ]  # fmt: skip
    return rows


def _costs(report: "CompareReport") -> list[list[str]]:
    models = [*(model.figures for model in report.models), report.original]
    return [[name, *map(figure, models)] for name, figure in COSTS.items()]
