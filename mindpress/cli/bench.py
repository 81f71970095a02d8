"""`mindpress bench`: how fast a model answers, alone or in turn with another one."""

import inspect
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindpress.cli.console import Console
from mindpress.cli.memory_words import at_most, runtime_pairs
from mindpress.cli.options import (
    CacheShareOpt,
    CacheSizeOpt,
    DeviceOpt,
    DownloadDirOpt,
    DryRunOpt,
    JsonOpt,
    KernelsOpt,
    MaxBatchSizeOpt,
    MaxPrefillOpt,
    PathArg,
    PolicyOpt,
    QuietOpt,
    RevisionOpt,
    RunDtypeOpt,
    SessionLenOpt,
    ThreadsOpt,
    TrustOpt,
)
from mindpress.cli.progress import Progress
from mindpress.engine.bench_figures import FIGURES
from mindpress.engine.bench_settings import Bench, Load
from mindpress.engine.bench_words import label, shown, shown_times
from mindpress.engine.config import EngineConfig, quant_policy_of
from mindpress.errors import ConfigError
from mindpress.report.numbers import counted, duration

if TYPE_CHECKING:
    from mindpress.engine.bench_report import BenchReport, LoadReport

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

AgainstOpt = Annotated[
    str | None,
    typer.Option(
        "--against",
        help="Measure this model in turn with it; hf:PATH is a plain run by transformers.",
    ),
]
InputLenOpt = Annotated[int, typer.Option("--input-len", help="Tokens of a prompt.")]
OutputLenOpt = Annotated[int, typer.Option("--output-len", help="Tokens of an answer.")]
PromptsOpt = Annotated[int, typer.Option("--prompts", help="Requests of a run.")]
ConcurrencyOpt = Annotated[
    int, typer.Option("--concurrency", help="Requests that are under way at once.")
]
RangeRatioOpt = Annotated[
    float,
    typer.Option(
        "--range-ratio", help="Spread both lengths by this share up and down; 0 is all equal."
    ),
]
DatasetOpt = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Cut prompts from this text: wikitext2, a .txt, .jsonl ... (random tokens)",
    ),
]
BatchSizesOpt = Annotated[
    str, typer.Option("--batch-sizes", help="Requests at once, each measured, as in 1,4,8.")
]
WarmupOpt = Annotated[int, typer.Option("--warmup", help="Runs before those that count.")]
RepeatsOpt = Annotated[int, typer.Option("--repeats", help="Runs that count.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed of prompts and lengths.")]
OutputOpt = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for bench.html and bench.json.")
]


@app.callback()
def bench() -> None:
    """Measure how fast a model reads and writes."""


@app.command("throughput")
def throughput(
    path: PathArg,
    against: AgainstOpt = None,
    input_len: InputLenOpt = 256,
    output_len: OutputLenOpt = 64,
    prompts: PromptsOpt = 32,
    concurrency: ConcurrencyOpt = 8,
    range_ratio: RangeRatioOpt = 0.0,
    dataset: DatasetOpt = None,
    warmup: WarmupOpt = 1,
    repeats: RepeatsOpt = 3,
    seed: SeedOpt = 0,
    output: OutputOpt = None,
    device: DeviceOpt = "auto",
    dtype: RunDtypeOpt = "auto",
    threads: ThreadsOpt = None,
    quant_policy: PolicyOpt = None,
    kernels: KernelsOpt = "auto",
    max_batch_size: MaxBatchSizeOpt = None,
    session_len: SessionLenOpt = None,
    cache_max_entry_count: CacheShareOpt = 0.8,
    cache_memory: CacheSizeOpt = None,
    max_prefill_token_num: MaxPrefillOpt = 512,
    revision: RevisionOpt = None,
    download_dir: DownloadDirOpt = None,
    trust_remote_code: TrustOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure many requests at once.

    Every answer has its full length. The cache has room for what runs at once, unless its options
    say else.
    """
    values = locals()
    load = Load(prompts, concurrency)
    settings = Bench(
        "throughput",
        loads=(load,),
        range_ratio=range_ratio,
        dataset=dataset,
        command=spelled("bench throughput", throughput, values),
        **shared(values, concurrency),
    )
    act = show_plan if dry_run else measure
    act(settings, Console(as_json=json, quiet=quiet))


@app.command("latency")
def latency(
    path: PathArg,
    against: AgainstOpt = None,
    input_len: InputLenOpt = 256,
    output_len: OutputLenOpt = 64,
    batch_sizes: BatchSizesOpt = "1",
    warmup: WarmupOpt = 1,
    repeats: RepeatsOpt = 5,
    seed: SeedOpt = 0,
    output: OutputOpt = None,
    device: DeviceOpt = "auto",
    dtype: RunDtypeOpt = "auto",
    threads: ThreadsOpt = None,
    quant_policy: PolicyOpt = None,
    kernels: KernelsOpt = "auto",
    max_batch_size: MaxBatchSizeOpt = None,
    session_len: SessionLenOpt = None,
    cache_max_entry_count: CacheShareOpt = 0.8,
    cache_memory: CacheSizeOpt = None,
    max_prefill_token_num: MaxPrefillOpt = 512,
    revision: RevisionOpt = None,
    download_dir: DownloadDirOpt = None,
    trust_remote_code: TrustOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure one request alone, or a few side by side.

    Those of a batch begin together and have the same length.
    """
    values = locals()
    sizes = sizes_of(batch_sizes)
    settings = Bench(
        "latency",
        loads=tuple(Load(size, size) for size in sizes),
        command=spelled("bench latency", latency, values),
        **shared(values, max(sizes)),
    )
    act = show_plan if dry_run else measure
    act(settings, Console(as_json=json, quiet=quiet))


def shared(values: Mapping[str, Any], at_once: int) -> dict[str, Any]:
    """What both commands tell `Bench`, of the values of their options."""
    from mindpress.checkpoint.writer import parse_size

    memory, most = values["cache_memory"], values["max_batch_size"]
    engine = EngineConfig(
        values["device"],
        values["dtype"],
        values["threads"],
        quant_policy_of(values["quant_policy"]),
        values["kernels"],
        max_batch_size=at_once if most is None else most,
        session_len=values["session_len"],
        cache_max_entry_count=values["cache_max_entry_count"],
        cache_memory=None if memory is None else parse_size(memory, "--cache-memory"),
        max_prefill_token_num=values["max_prefill_token_num"],
    )
    same = ("path", "against", "input_len", "output_len", "warmup", "repeats", "seed", "output",
            "revision", "download_dir", "trust_remote_code")  # fmt: skip
    return {"engine": engine} | {name: values[name] for name in same}


def sizes_of(text: str) -> tuple[int, ...]:
    """`1,4,8` -> (1, 4, 8). ConfigError when it is no such list."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ConfigError(
            f"--batch-sizes {text}: not a list of different numbers above 0", hint="write 1,4,8"
        )
    return sizes


def spelled(name: str, command: Callable[..., None], values: Mapping[str, Any]) -> str:
    """The command line that gives these values again."""
    words = ["mindpress", *name.split(), str(values["path"])]
    for option, parameter in inspect.signature(command).parameters.items():
        value, flag = values[option], f"--{option.replace('_', '-')}"
        if option in ("path", "dry_run") or value == parameter.default:
            continue
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def show_plan(settings: Bench, console: Console) -> None:
    """Print what would be measured, and the memory it takes."""
    from mindpress.engine.bench_plan import plan_bench

    with Progress(console) as listener:
        plan = plan_bench(settings, listener)
    console.result(plan.as_dict())
    console.heading(f"Plan: {settings.command}; nothing was written")
    for model in plan.models:
        console.heading(f"\n{model.model}")
        console.pairs(runtime_pairs(model))
    console.heading("\nall in memory together")
    console.pairs(
        {
            "against": plan.against,
            "runs that count": f"{plan.runs} of each model",
            "peak memory": "not known: transformers is beside it"
            if plan.peak_memory_bytes is None
            else at_most(plan.peak_memory_bytes),
        }
    )


def measure(settings: Bench, console: Console) -> None:
    """Do it, and print what came out."""
    from mindpress.engine.bench import bench as run

    with Progress(console) as listener:
        report = run(settings, listener)
    console.result(report.as_dict())
    show(report, console)


def show(report: "BenchReport", console: Console) -> None:
    """The figures under each load, the other model's beside them, and where the page is."""
    model, against = report.model, report.against
    console.heading(f"{model.path} ({model.runs_on.weights})")
    if against:
        console.text(f"against {against.path} ({against.runs_on.engine}, {against.runs_on.dtype})")
    given = report.settings
    console.text(
        f"prompts of {given['input_len']} tokens, answers of {given['output_len']}; the middle of "
        f"{given['repeats']} runs (least to most)"
    )
    for load in report.loads:
        console.heading(f"\n{load.name}")
        columns = ["", "this model", *(["the other", "times better"] if against else [])]
        console.table(columns, _rows(load))
    page = f"; report: {Path(report.folder) / 'bench.html'}" if report.folder else ""
    console.text(
        f"\n{report.device}, {counted(report.threads, 'thread')}, {duration(report.seconds)}{page}"
    )


def _rows(load: "LoadReport") -> list[list[str]]:
    rows = []
    for figure in FIGURES:
        row = [label(figure), shown(figure, load.model.figures[figure.name])]
        if load.against and load.times:
            row.append(shown(figure, load.against.figures[figure.name]))
            row.append(shown_times(load.times[figure.name]))
        rows.append(row)
    return rows
