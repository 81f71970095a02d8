"""`mindpress lite`: quantize a model, calibrate it."""

from pathlib import Path

import typer

from mindpress.cli import quantize
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
from mindpress.cli.quantize_options import (
    BitsOpt,
    FormatOpt,
    GroupOpt,
    PropagateOpt,
    RefineOpt,
    RoundingOpt,
    SearchOpt,
    ShardOpt,
    SymmetricOpt,
    TargetOpt,
    WorkDirOpt,
)
from mindpress.cli.smooth_quant import smooth_quant
from mindpress.lite.recipe import Algorithm, Calibration, Recipe

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


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
    format: FormatOpt = "auto",  # noqa: A002 - the option's name
    search_scale: SearchOpt = None,
    rounding: RoundingOpt = "compensated",
    propagate: PropagateOpt = "auto",
    refine: RefineOpt = None,
    target_bpw: TargetOpt = None,
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
    """Quantize a model with AWQ, usually to 4 bits.

    It protects the channels that matter to the activations, and works layer by layer: the whole
    model is never in memory.
    """
    recipe = Recipe(
        model=model,
        format=format,
        bits=w_bits,
        group_size=w_group_size,
        symmetric=w_sym,
        search_scale=search_scale,
        rounding=rounding,
        propagate=propagate,
        refine=refine,
        target_bpw=target_bpw,
        calibration=Calibration(calib_dataset, calib_samples, calib_seqlen, seed, batch_size),
        device=device,
        dtype=dtype,
        max_shard_size=max_shard_size,
        revision=revision,
        download_dir=None if download_dir is None else str(download_dir),
        trust_remote_code=trust_remote_code,
    )
    _quantize(recipe, work_dir, dry_run, overwrite, Console(as_json=json, quiet=quiet))


@app.command("auto-gptq")
def auto_gptq(
    model: ModelArg,
    work_dir: WorkDirOpt = None,
    calib_dataset: DatasetOpt = "wikitext2",
    calib_samples: SamplesOpt = 128,
    calib_seqlen: LengthOpt = 2048,
    batch_size: BatchOpt = 1,
    w_bits: BitsOpt = 4,
    w_group_size: GroupOpt = 128,
    w_sym: SymmetricOpt = True,
    format: FormatOpt = "auto",  # noqa: A002 - the option's name
    rounding: RoundingOpt = "compensated",
    propagate: PropagateOpt = "auto",
    refine: RefineOpt = None,
    target_bpw: TargetOpt = None,
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
    """Quantize a model with GPTQ: later weights make up for the errors of earlier ones.

    No scales are moved between weights. Symmetric by default, which every program that reads GPTQ
    takes; it works layer by layer: the whole model is never in memory.
    """
    recipe = Recipe(
        model=model,
        algorithm="gptq",
        format=format,
        bits=w_bits,
        group_size=w_group_size,
        symmetric=w_sym,
        rounding=rounding,
        propagate=propagate,
        refine=refine,
        target_bpw=target_bpw,
        calibration=Calibration(calib_dataset, calib_samples, calib_seqlen, seed, batch_size),
        device=device,
        dtype=dtype,
        max_shard_size=max_shard_size,
        revision=revision,
        download_dir=None if download_dir is None else str(download_dir),
        trust_remote_code=trust_remote_code,
    )
    _quantize(recipe, work_dir, dry_run, overwrite, Console(as_json=json, quiet=quiet))


app.command("smooth-quant")(smooth_quant)
app.command("calibrate")(calibrate)
app.command("kv-qparams")(kv_qparams)


def default_target(model: str, bits: str, algorithm: Algorithm = "awq") -> Path:
    """Where the model goes when --work-dir is not given."""
    return Path("workspaces") / f"{model_name(model)}-{algorithm}-w{bits}"


def _quantize(
    recipe: Recipe, work_dir: Path | None, dry_run: bool, overwrite: bool, console: Console
) -> None:
    bits = f"{recipe.target_bpw or recipe.bits:g}"
    target = work_dir or default_target(recipe.model, bits, recipe.algorithm)
    act = quantize.show_plan if dry_run else quantize.run
    act(recipe, target, overwrite, console)
