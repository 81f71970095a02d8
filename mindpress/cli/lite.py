"""`mindpress lite`: quantize a model, calibrate it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mindpress.cli.calibrate import calibrate, model_name
from mindpress.cli.calibration_options import BatchOpt, DatasetOpt, LengthOpt, SamplesOpt
from mindpress.cli.console import Console
from mindpress.cli.kv_qparams import kv_qparams
from mindpress.cli.options import (
    DeviceOpt,
    DownloadDirOpt,
    DryRunOpt,
    DtypeOpt,
    JsonOpt,
    ModelArg,
    OverwriteOpt,
    QuietOpt,
    RevisionOpt,
    SeedOpt,
    TrustOpt,
)
from mindpress.cli.progress import Progress
from mindpress.lite.recipe import Calibration, Recipe
from mindpress.report.numbers import duration, number, percent, size

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

WorkDirOpt = Annotated[
    Path | None,
    typer.Option("--work-dir", help="Folder to write; workspaces/MODEL-awq-wBITS when not given."),
]
BitsOpt = Annotated[int, typer.Option("--w-bits", help="Bits per weight.")]
GroupOpt = Annotated[
    int,
    typer.Option("--w-group-size", help="Input channels that share a scale; -1 is the whole row."),
]
SymmetricOpt = Annotated[
    bool, typer.Option("--w-sym/--no-w-sym", help="Symmetric rounding, without zero points.")
]
SearchOpt = Annotated[
    bool,
    typer.Option(
        "--search-scale/--no-search-scale",
        help="Search scales and clipping on the calibration text: slower, better. Takes True "
        "or False as in LMDeploy.",
    ),
]
RoundingOpt = Annotated[
    Literal["nearest", "compensated"],
    typer.Option(
        "--rounding",
        help="Each weight to its nearest value, or so that later weights make up for the errors "
        "of earlier ones (GPTQ): slower, better.",
    ),
]
PropagateOpt = Annotated[
    Literal["auto", "original", "quantized", "asymmetric"],
    typer.Option(
        "--propagate",
        help="What a layer is calibrated on: activations of the original model, of the layers "
        "quantized so far, or these while aiming at the original's output. auto is asymmetric "
        "with compensated rounding, else original.",
    ),
]
RefineOpt = Annotated[
    int | None,
    typer.Option(
        "--refine",
        help="Sweeps that improve codes and scales after compensation; 2 when not given.",
    ),
]
ShardOpt = Annotated[
    str, typer.Option("--max-shard-size", help="Largest weight file, for example 5GB or 500MB.")
]


@app.callback()
def lite() -> None:
    """Quantize the weights of a model, or calibrate its cache."""


@app.command("auto-awq")
def auto_awq(
    model: ModelArg,
    work_dir: WorkDirOpt = None,
    calib_dataset: DatasetOpt = "wikitext2",
    calib_samples: SamplesOpt = 128,
    calib_seqlen: LengthOpt = 2048,
    batch_size: BatchOpt = 1,
    w_bits: BitsOpt = 4,
    w_group_size: GroupOpt = 128,
    w_sym: SymmetricOpt = False,
    search_scale: SearchOpt = False,
    rounding: RoundingOpt = "nearest",
    propagate: PropagateOpt = "auto",
    refine: RefineOpt = None,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    seed: SeedOpt = 0,
    revision: RevisionOpt = None,
    download_dir: DownloadDirOpt = None,
    trust_remote_code: TrustOpt = False,
    max_shard_size: ShardOpt = "5GB",
    dry_run: DryRunOpt = False,
    overwrite: OverwriteOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Quantize a model to 4 bits with AWQ.

    It protects the channels that matter to the activations, and works layer by layer: the whole
    model is never in memory.
    """
    recipe = Recipe(
        model=model,
        bits=w_bits,
        group_size=w_group_size,
        symmetric=w_sym,
        search_scale=search_scale,
        rounding=rounding,
        propagate=propagate,
        refine=refine,
        calibration=Calibration(calib_dataset, calib_samples, calib_seqlen, seed, batch_size),
        device=device,
        dtype=dtype,
        max_shard_size=max_shard_size,
        revision=revision,
        download_dir=None if download_dir is None else str(download_dir),
        trust_remote_code=trust_remote_code,
    )
    target = work_dir or default_target(model, w_bits)
    console = Console(as_json=json, quiet=quiet)
    if dry_run:
        plan(recipe, target, overwrite, console)
    else:
        quantize(recipe, target, overwrite, console)


app.command("calibrate")(calibrate)
app.command("kv-qparams")(kv_qparams)


def default_target(model: str, bits: int) -> Path:
    """Where the model goes when --work-dir is not given."""
    return Path("workspaces") / f"{model_name(model)}-awq-w{bits}"


def plan(recipe: Recipe, target: Path, overwrite: bool, console: Console) -> None:
    """Print what would be done."""
    from mindpress.lite.quantize import check_request

    found = check_request(recipe, target, overwrite=overwrite).plan
    console.result({**found.as_dict(), "target": target})
    console.heading(f"Plan: {recipe.model} -> {target} ({recipe.bits} bits); nothing was written")
    console.pairs(
        {
            "family": found.source.architecture.hf_class,
            "size": f"{size(found.bytes_before)} -> {size(found.bytes_after)}",
            "bits per weight": number(found.bits_per_weight),
            "peak memory": f"about {size(found.peak_memory)} above the bare process",
            "hidden states": f"{size(found.hidden_bytes)} of that",
            "calibration": f"{recipe.calibration.samples} samples of {found.length} tokens",
        }
    )
    console.text()
    console.table(
        ["linear of each layer", "inputs", "outputs", "bits"],
        [
            [p.linear.name, str(p.inputs), str(p.outputs), "16" if p.obstacle else str(recipe.bits)]
            for p in found.linears
        ],
    )
    for note in found.notes:
        console.say(f"note: {note}")


def quantize(recipe: Recipe, target: Path, overwrite: bool, console: Console) -> None:
    """Do it, and print what came out."""
    from mindpress.lite.quantize import quantize_model

    with Progress(console) as listener:
        report = quantize_model(recipe, target, overwrite=overwrite, listener=listener)
    console.result(report.as_dict())
    share = report.bytes_after / report.bytes_before
    console.heading(f"Quantized {recipe.model} to {recipe.bits} bits")
    console.pairs(
        {
            "folder": str(report.target),
            "size": f"{size(report.bytes_before)} -> {size(report.bytes_after)} "
            f"({percent(share)} of the original)",
            "bits per weight": number(report.bits_per_weight),
            "error of a layer": f"{number(report.mean_error)} "
            f"(plain rounding {number(report.mean_plain_error)})",
            "time": duration(report.seconds),
            "peak memory": size(report.peak_memory_bytes),
            "report": str(report.target / "report.html"),
        }
    )
    console.text(f"\nNext: mindpress validate {report.target} --against {recipe.model}")
