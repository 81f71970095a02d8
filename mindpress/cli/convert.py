"""`mindpress convert`: a model folder becomes a TurboMind workspace."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from mindpress.cli.console import Console
from mindpress.cli.convert_cache import (
    BatchOpt,
    CacheRequest,
    CalibOpt,
    GranularityOpt,
    KvBitsOpt,
    KvSymOpt,
    LengthOpt,
    SamplesOpt,
    cache_request,
    calibrated,
    calibrated_on,
    check_request,
)
from mindpress.cli.inspect import cache_words
from mindpress.cli.memory_words import at_most
from mindpress.cli.options import DryRunOpt, JsonOpt, OverwriteOpt, QuietOpt
from mindpress.cli.progress import Progress
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError
from mindpress.lite.recipe import Calibration
from mindpress.report.numbers import duration, size

SourceArg = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="Folder of a model, in floats or 4-bit codes, or its id on the Hub."
    ),
]
PathArg = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATH]",
        help="LMDeploy's form: then the first argument is the model's name.",
        show_default=False,
    ),
]
TargetOpt = Annotated[Path, typer.Option("--dst-path", help="Folder to write.")]
NameOpt = Annotated[
    str | None,
    typer.Option("--model-name", help="Chat template of LMDeploy, for example llama2."),
]
FormatOpt = Annotated[
    Literal["auto", "hf", "awq", "gptq", "compressed-tensors"],
    typer.Option("--model-format", help="Format of SOURCE; auto sees it."),
]
TpOpt = Annotated[int, typer.Option("--tp", help="GPUs that share the model: 1, 2, 4 or 8.")]
GroupOpt = Annotated[
    int | None,
    typer.Option("--group-size", help="Group of the int4 weights; SOURCE says when not given."),
]
DtypeOpt = Annotated[
    Literal["auto", "float16", "bfloat16"], typer.Option("--dtype", help="Type of the floats.")
]
VersionOpt = Annotated[
    str,
    typer.Option(
        "--tm-version",
        help="Oldest LMDeploy to read it: 0.2, 0.3, 0.5, 0.6, or auto: 0.5 where the model fits.",
    ),
]
ForceOpt = Annotated[
    bool, typer.Option("--force", help="Write 0.5 also where its engines would refuse it.")
]


def convert(
    source: SourceArg,
    path: PathArg = None,
    dst_path: TargetOpt = Path("workspace"),
    model_name: NameOpt = None,
    model_format: FormatOpt = "auto",
    tp: TpOpt = 1,
    group_size: GroupOpt = None,
    dtype: DtypeOpt = "auto",
    tm_version: VersionOpt = "auto",
    force: ForceOpt = False,
    kv_bits: KvBitsOpt = None,
    kv_sym: KvSymOpt = False,
    granularity: GranularityOpt = None,
    calib: CalibOpt = None,
    calib_samples: SamplesOpt = 128,
    calib_seqlen: LengthOpt = 2048,
    batch_size: BatchOpt = 1,
    dry_run: DryRunOpt = False,
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Convert a model to a TurboMind workspace.

    With --kv-bits the workspace also says how engines keep keys and values.
    """
    name, folder = named(source, path, model_name)
    calibration = Calibration(
        calib or "wikitext2", calib_samples, calib_seqlen, batch_size=batch_size
    )
    request = cache_request(kv_bits, kv_sym, granularity, calib, calibration)
    settings = Conversion(
        source=folder,
        target=dst_path,
        model_name=name,
        model_format=model_format,
        tp=tp,
        group_size=group_size,
        dtype=dtype,
        tm_version=tm_version,
        force=force,
        overwrite=overwrite,
        cache=request.spec,
    )
    console = Console(as_json=json, quiet=quiet)
    if dry_run:
        show_plan(settings, request, console)
    else:
        run(settings, request, console)


def named(source: str, path: str | None, model_name: str | None) -> tuple[str | None, str]:
    """Model name and folder of `convert SOURCE` and of LMDeploy's `convert NAME PATH`."""
    if path is None:
        return model_name, source
    if model_name is not None and model_name != source:
        raise ConfigError(
            f"--model-name {model_name}: the model is already named `{source}`",
            hint="give the folder alone, or the name once",
        )
    return source, path


def show_plan(settings: Conversion, request: CacheRequest, console: Console) -> None:
    """Print what would be written."""
    plan = check_request(request, settings)
    console.result(plan.as_dict())
    console.heading(f"Plan: {settings.source} -> {settings.target}; nothing was written")
    console.pairs(
        {
            "layout": f"TurboMind {plan.dialect.version} ({plan.dialect.file})",
            "tp": plan.config.tp,
            "weights": plan.config.weight_type,
            "cache": cache_words(request.spec),
            "size": f"{size(plan.bytes)} in {len(plan.files)} files of weights",
            "peak memory": at_most(plan.peak_memory),
        }
    )
    for note in plan.notes:
        console.say(f"note: {note.text}")


def run(settings: Conversion, request: CacheRequest, console: Console) -> None:
    """Convert, and print what came out."""
    from mindpress.convert.convert import convert_model

    begun = time.perf_counter()
    calibrate = partial(calibrated, request, settings) if request.calib else None
    with Progress(console) as listener:
        report = convert_model(settings, listener, calibrate)
    console.result(report.as_dict())
    console.heading(f"Converted {settings.source} to a TurboMind workspace")
    console.pairs(
        {
            "workspace": str(report.target),
            "layout": f"TurboMind {report.tm_version} ({report.config})",
            "tp": report.tp,
            "weights": report.weight_type,
            "cache": cache_words(request.spec),
            "calibrated on": calibrated_on(report.origin),
            "size": f"{size(report.bytes)} in {report.files} files",
            "time": duration(time.perf_counter() - begun),
        }
    )
    console.text(f"\nNext: mindpress chat {report.target}")
