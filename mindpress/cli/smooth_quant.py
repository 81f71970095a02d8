"""`mindpress lite smooth-quant`."""

from pathlib import Path
from typing import Annotated

import typer

from mindpress.cli import quantize
from mindpress.cli.calibrate import model_name
from mindpress.cli.calibration_options import BatchOpt, DatasetOpt, LengthOpt, SamplesOpt
from mindpress.cli.console import Console
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
from mindpress.cli.quantize_options import ShardOpt
from mindpress.lite.recipe import Calibration, smooth_quant_recipe

WorkDirOpt = Annotated[
    Path | None,
    typer.Option("--work-dir", help="Folder to write; workspaces/MODEL-w8a8 when not given."),
]


def smooth_quant(
    model: ModelArg,
    work_dir: WorkDirOpt = None,
    calib_dataset: DatasetOpt = "wikitext2",
    calib_samples: SamplesOpt = 128,
    calib_seqlen: LengthOpt = 2048,
    batch_size: BatchOpt = 1,
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
    """Quantize a model to int8 weights for int8 activations (W8A8) with SmoothQuant.

    Scales are moved from activations to weights, how far is searched for every part of every
    layer. It works layer by layer: the whole model is never in memory.
    """
    recipe = smooth_quant_recipe(
        model,
        Calibration(calib_dataset, calib_samples, calib_seqlen, seed, batch_size),
        device=device,
        dtype=dtype,
        max_shard_size=max_shard_size,
        revision=revision,
        download_dir=None if download_dir is None else str(download_dir),
        trust_remote_code=trust_remote_code,
    )
    target = work_dir or Path("workspaces") / f"{model_name(model)}-w8a8"
    act = quantize.show_plan if dry_run else quantize.run
    act(recipe, target, overwrite, Console(as_json=json, quiet=quiet))
