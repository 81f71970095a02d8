"""`mindpress validate`: how good, small and fast a model is, beside its original."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindpress.cli.console import Console
from mindpress.cli.memory_words import at_most
from mindpress.cli.options import (
    AfreshOpt,
    DeviceOpt,
    DownloadDirOpt,
    DryRunOpt,
    JsonOpt,
    KernelsOpt,
    PathArg,
    PolicyOpt,
    QuietOpt,
    RevisionOpt,
    RunDtypeOpt,
    ThreadsOpt,
    TrustOpt,
)
from mindpress.cli.progress import Progress
from mindpress.engine.config import quant_policy_of
from mindpress.engine.settings import Validation
from mindpress.report.numbers import counted, duration, number, percent, size

if TYPE_CHECKING:
    from mindpress.engine.validation_plan import ValidationPlan
    from mindpress.engine.validation_report import ModelFigures, ValidationReport

AgainstOpt = Annotated[
    str | None,
    typer.Option("--against", help="The original: its folder, or its id on the Hub."),
]
DatasetsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset", help="wikitext2, ptb, a .txt file ...; may be given again. (both of them)"
    ),
]
LengthOpt = Annotated[
    int, typer.Option("--seqlen", help="Tokens per window, at most the model's maximum.")
]
LimitOpt = Annotated[
    int | None, typer.Option("--limit", help="Score only the first so many windows of each text.")
]
CachesOpt = Annotated[
    bool, typer.Option("--caches/--no-caches", help="Compare caches of 16, 8 and 4 bits.")
]
CacheMemoryOpt = Annotated[
    str, typer.Option("--cache-memory", help="What the longest contexts of caches must fit.")
]
OutputOpt = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for validation.html and validation.json.")
]
CACHE_COLUMNS = ["", "bytes/token", "of 16 bits", "perplexity", "KL", "same top"]


def validate(
    path: PathArg,
    against: AgainstOpt = None,
    dataset: DatasetsOpt = None,
    seqlen: LengthOpt = 2048,
    limit: LimitOpt = None,
    output: OutputOpt = Path("validation"),
    device: DeviceOpt = "auto",
    dtype: RunDtypeOpt = "auto",
    threads: ThreadsOpt = None,
    quant_policy: PolicyOpt = None,
    kernels: KernelsOpt = "auto",
    caches: CachesOpt = True,
    cache_memory: CacheMemoryOpt = "1GiB",
    revision: RevisionOpt = None,
    download_dir: DownloadDirOpt = None,
    trust_remote_code: TrustOpt = False,
    dry_run: DryRunOpt = False,
    overwrite: AfreshOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure quality, size, speed and memory.

    Perplexity by the usual recipe; with --against also how far the predictions are from the
    original's (mean KL divergence, same top token). Shows a table and saves a page.
    """
    from mindpress.checkpoint.writer import parse_size
    from mindpress.engine.validate import plan_validation
    from mindpress.engine.validate import validate as validate_model

    chosen = {"datasets": tuple(dataset)} if dataset else {}
    settings = Validation(
        path=path,
        against=against,
        length=seqlen,
        limit=limit,
        device=device,
        dtype=dtype,
        threads=threads,
        quant_policy=quant_policy_of(quant_policy),
        kernels=kernels,
        caches=caches,
        cache_memory=parse_size(cache_memory, "--cache-memory"),
        output=output,
        revision=revision,
        download_dir=download_dir,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
        **chosen,
    )
    console = Console(as_json=json, quiet=quiet)
    if dry_run:
        with Progress(console) as listener:
            plan = plan_validation(settings, listener)
        show_plan(plan, output, console)
        return
    with Progress(console) as listener:
        report = validate_model(settings, listener)
    console.result(report.as_dict())
    show(report, console)


def show_plan(plan: "ValidationPlan", output: Path, console: Console) -> None:
    """What would be measured."""
    console.result(plan.as_dict())
    console.heading(f"Plan: {', '.join(plan.models)} -> {output}; nothing was written")
    texts = [
        f"{t.dataset}, {counted(t.windows, 'window')} of {t.length} tokens" for t in plan.texts
    ]
    console.pairs(
        {
            "against": plan.against,
            "texts": "; ".join(texts),
            "device": plan.device,
            "peak memory": at_most(plan.peak_memory_bytes),
        }
    )


def show(report: "ValidationReport", console: Console) -> None:
    """The figures, the original's beside them, and where the page is."""
    model, original = report.model, report.original
    console.heading(f"{model.path} ({model.format})")
    columns = ["", "this model", *(["original"] if original else [])]
    console.table(columns, [*_quality(report), *_costs(model, original)])
    if report.caches:
        beside = "the original" if original else "this model with an exact cache"
        console.heading(f"\nCache of keys and values; KL and same top against {beside}")
        console.table([*CACHE_COLUMNS, f"tokens in {size(report.cache_memory)}"], _caches(report))
    console.text(
        f"\n{report.device}, {counted(report.threads, 'thread')}, {duration(report.seconds)}; "
        f"report: {Path(report.output) / 'validation.html'}"
    )


def _quality(report: "ValidationReport") -> list[list[str]]:
    rows = []
    for found in report.datasets:
        rows.append(
            [
                f"perplexity, {found.dataset}",
                number(found.perplexity),
                *([] if report.original is None else [number(found.original_perplexity)]),
            ]
        )
        if found.kl_divergence is not None and found.top1_agreement is not None:
            rows.append([f"KL divergence, {found.dataset}", number(found.kl_divergence), ""])
            rows.append([f"same top token, {found.dataset}", percent(found.top1_agreement), ""])
    return rows


def _caches(report: "ValidationReport") -> list[list[str]]:
    return [
        [
            found.cache,
            f"{found.bytes_per_token:,}",
            percent(found.share),
            number(found.perplexity),
            number(found.kl_divergence),
            percent(found.top1_agreement),
            f"{found.longest_context:,}",
        ]
        for found in report.caches
    ]


def _costs(model: "ModelFigures", original: "ModelFigures | None") -> list[list[str]]:
    shown = {
        "size on disk": lambda m: size(m.bytes),
        "bits per weight": lambda m: number(m.bits_per_weight),
        "reading, tokens/s": lambda m: number(m.prefill),
        "writing, tokens/s": lambda m: number(m.decode),
        "peak memory": lambda m: size(m.peak_memory),
        "computed in": lambda m: m.dtype,
        "linears in memory": lambda m: m.weights,
        "cache": lambda m: m.cache,
        "cache per token": lambda m: size(m.cache_bytes_per_token),
    }
    models = [model, *([original] if original else [])]
    return [[name, *(figure(one) for one in models)] for name, figure in shown.items()]
