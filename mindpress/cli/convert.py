"""`mindpress convert`: a model folder becomes a TurboMind workspace."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mindpress.cli.console import Console
from mindpress.cli.options import DryRunOpt, JsonOpt, OverwriteOpt, QuietOpt
from mindpress.cli.progress import Progress
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError
from mindpress.report.numbers import duration, size

SourceArg = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="Folder of a 16-bit or AWQ model, or its id on the Hub."),
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
    Literal["auto", "hf", "awq"], typer.Option("--model-format", help="Format of SOURCE.")
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
        help="Oldest LMDeploy to read it: 0.2, 0.5, 0.6, or auto: 0.5 where the model fits.",
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
    dry_run: DryRunOpt = False,
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Convert a model to a TurboMind workspace."""
    name, folder = named(source, path, model_name)
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
    )
    console = Console(as_json=json, quiet=quiet)
    if dry_run:
        show_plan(settings, console)
    else:
        run(settings, console)


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


def show_plan(settings: Conversion, console: Console) -> None:
    """Print what would be written."""
    from mindpress.convert.convert import plan_conversion

    plan = plan_conversion(settings)
    console.result(plan.as_dict())
    console.heading(f"Plan: {settings.source} -> {settings.target}; nothing was written")
    console.pairs(
        {
            "layout": f"TurboMind {plan.dialect.version} ({plan.dialect.file})",
            "tp": plan.config.tp,
            "weights": plan.config.weight_type,
            "size": f"{size(plan.bytes)} in {len(plan.files)} files of weights",
        }
    )
    for note in plan.notes:
        console.say(f"note: {note.text}")


def run(settings: Conversion, console: Console) -> None:
    """Convert, and print what came out."""
    from mindpress.convert.convert import convert_model

    with Progress(console) as listener:
        report = convert_model(settings, listener)
    console.result(report.as_dict())
    console.heading(f"Converted {settings.source} to a TurboMind workspace")
    console.pairs(
        {
            "workspace": str(report.target),
            "layout": f"TurboMind {report.tm_version} ({report.config})",
            "tp": report.tp,
            "weights": report.weight_type,
            "size": f"{size(report.bytes)} in {report.files} files",
            "time": duration(report.seconds),
        }
    )
    console.text(f"\nNext: mindpress chat {report.target}")
