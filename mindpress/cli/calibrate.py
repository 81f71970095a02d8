"""`mindpress lite calibrate`: the ranges of activations, and scales made of them if wanted."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from mindpress.cli.calibration_options import BatchOpt, DatasetOpt, LengthOpt, SamplesOpt
from mindpress.cli.console import Console
from mindpress.cli.convert_cache import KvSymOpt
from mindpress.cli.kv_qparams import BITS, GranularityOpt, KvBitsOpt, Output, write_scales
from mindpress.cli.memory_words import at_most
from mindpress.cli.options import (
    DeviceOpt,
    DownloadDirOpt,
    DryRunOpt,
    JsonOpt,
    OverwriteOpt,
    QuietOpt,
    RevisionOpt,
    SeedOpt,
    TrustOpt,
)
from mindpress.cli.progress import Progress
from mindpress.errors import ConfigError
from mindpress.formats.cache_spec import CacheSpec
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.recipe import Calibration
from mindpress.report.numbers import duration, number, size

if TYPE_CHECKING:
    from mindpress.lite.calibrate import CalibrationReport, Widest

CACHE = "kv"
FORM = "mindpress lite calibrate [kv] MODEL"

WhatArg = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a model, in floats or codes, or its id on the Hub; or the word kv.",
    ),
]
PathArg = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATH]",
        help="After kv: the model, of which keys and values alone are recorded.",
        show_default=False,
    ),
]
WorkDirOpt = Annotated[
    Path | None,
    typer.Option("--work-dir", help="Folder to write; workspaces/MODEL-statistics by default."),
]
ClampOpt = Annotated[
    bool,
    typer.Option(
        "--clamp", help="Replace NaN and infinite activations by finite values, and carry on."
    ),
]
WorkspaceOpt = Annotated[
    Path | None,
    typer.Option(
        "--workspace", help="Also write the scales of the cache into this workspace of the model."
    ),
]


def calibrate(
    model: WhatArg,
    path: PathArg = None,
    work_dir: WorkDirOpt = None,
    calib_dataset: DatasetOpt = "wikitext2",
    calib_samples: SamplesOpt = 128,
    calib_seqlen: LengthOpt = 2048,
    batch_size: BatchOpt = 1,
    workspace: WorkspaceOpt = None,
    kv_bits: KvBitsOpt = BITS,
    kv_sym: KvSymOpt = False,
    granularity: GranularityOpt = "tensor",
    clamp: ClampOpt = False,
    device: DeviceOpt = "auto",
    seed: SeedOpt = 0,
    revision: RevisionOpt = None,
    download_dir: DownloadDirOpt = None,
    trust_remote_code: TrustOpt = False,
    dry_run: DryRunOpt = False,
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Record the ranges of a model's activations on calibration text.

    Of every linear its inputs and outputs, of the cache its keys and values; with `kv` before the
    model the cache alone. The model runs layer by layer and is never whole in memory.
    """
    cache_only, name = asked(model, path)
    run = CalibrationRun(
        model=name,
        calibration=Calibration(calib_dataset, calib_samples, calib_seqlen, seed, batch_size),
        cache_only=cache_only,
        clamp=clamp,
        device=device,
        revision=revision,
        download_dir=None if download_dir is None else str(download_dir),
        trust_remote_code=trust_remote_code,
    )
    output = wanted(workspace, CacheSpec(kv_bits, kv_sym, granularity))
    target = work_dir or Path("workspaces") / f"{model_name(name)}-statistics"
    console = Console(as_json=json, quiet=quiet)
    if dry_run:
        show_plan(run, target, output, overwrite, console)
    else:
        execute(run, target, output, overwrite, console)


def asked(first: str, second: str | None) -> tuple[bool, str]:
    """Whether keys and values alone are wanted, and the model, of `calibrate [kv] MODEL`."""
    if second is None and first != CACHE:
        return False, first
    if second is None:
        raise ConfigError("calibrate kv: no model", hint=f"{FORM}; a folder of that name is ./kv")
    if first != CACHE:
        raise ConfigError(
            f"calibrate {first}: only `{CACHE}` may stand before the model", hint=FORM
        )
    return True, second


def wanted(workspace: Path | None, spec: CacheSpec) -> Output | None:
    """What to write into a workspace; ConfigError for flags that need one."""
    if workspace is not None:
        return Output(workspace, spec)
    if spec != CacheSpec(BITS, granularity="tensor"):
        raise ConfigError(
            "--kv-bits, --kv-sym, --granularity: say how a workspace keeps its cache",
            hint="add --workspace, or give them to mindpress lite kv-qparams",
        )
    return None


def model_name(model: str) -> str:
    """What a model's folders are named after: its own folder, or the last part of its Hub id."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else folder.name


def check_workspace(run: CalibrationRun, output: Output | None) -> Path | None:
    """The workspace's own folder; refuses one that cannot take the scales of this model."""
    if output is None:
        return None
    from mindpress.convert.cache_output import check_cache_target
    from mindpress.lite.calibration_plan import open_model
    from mindpress.sources.signature import cache_signature

    check_cache_target(output.workspace, output.spec)  # before the model is downloaded
    found = cache_signature(open_model(run))
    return check_cache_target(output.workspace, output.spec, found).folder


def show_plan(
    run: CalibrationRun, target: Path, output: Output | None, overwrite: bool, console: Console
) -> None:
    """Print what would be done."""
    from mindpress.lite.calibration_plan import check_calibration

    with Progress(console) as listener:
        request = check_calibration(run, target, overwrite=overwrite, listener=listener)
    workspace = check_workspace(run, output)
    console.result({**request.as_dict(), "target": target})
    console.heading(f"Plan: {run.model} -> {target}; nothing was written")
    header = request.header
    console.pairs(
        {
            "family": header.family,
            "layers": header.layers,
            "linears of each layer": len(header.linears) or "none, keys and values only",
            "calibration": f"{header.samples} samples of {header.length} tokens",
            "size": size(request.nbytes),
            "peak memory": at_most(request.peak_memory),
            "workspace": workspace,
        }
    )


def execute(
    run: CalibrationRun, target: Path, output: Output | None, overwrite: bool, console: Console
) -> None:
    """Do it, and print what came out."""
    from mindpress.calib.statistics_file import load_statistics
    from mindpress.lite.calibrate import calibrate_model

    workspace = check_workspace(run, output)
    files: list[Path] = []
    with Progress(console) as listener:
        report = calibrate_model(run, target, overwrite=overwrite, listener=listener)
        if output:
            files = write_scales(output, load_statistics(target), listener)
    console.result({**report.as_dict(), "workspace_files": files})
    show_report(report, console)
    if workspace:
        console.pairs({"workspace": f"{workspace} ({len(files)} written)"})
        console.text(f"\nNext: mindpress chat {quote(str(workspace))}")
    else:
        console.text(f"\nNext: mindpress lite kv-qparams {quote(str(target))} WORKSPACE")


def show_report(report: "CalibrationReport", console: Console) -> None:
    """What was found, for people."""
    header = report.header
    console.heading(f"Calibrated {header.model}")
    console.pairs(
        {
            "folder": report.target,
            "layers": header.layers,
            "clamped": ", ".join(f"layers.{index}" for index in header.clamped) or None,
            "tokens": f"{header.tokens:,}",
            "widest keys": wide(report.keys),
            "widest values": wide(report.values),
            "time": duration(report.seconds),
            "peak memory": size(report.peak_memory_bytes),
        }
    )


def wide(range_: "Widest") -> str:
    """`-3.2 to 4.1 in layers.5`."""
    return f"{number(range_.low)} to {number(range_.high)} in layers.{range_.layer}"
