"""Options of the commands that quantize a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

WorkDirOpt = Annotated[
    Path | None,
    typer.Option(
        "--work-dir", help="Folder to write; workspaces/MODEL-ALGORITHM-wBITS when not given."
    ),
]
BitsOpt = Annotated[int, typer.Option("--w-bits", help="Bits per weight: 2, 3, 4 or 8.")]
GroupOpt = Annotated[
    int,
    typer.Option("--w-group-size", help="Input channels that share a scale; -1 is the whole row."),
]
SymmetricOpt = Annotated[
    bool, typer.Option("--w-sym/--no-w-sym", help="Symmetric rounding, without zero points.")
]
SearchOpt = Annotated[
    bool | None,
    typer.Option(
        "--search-scale/--no-search-scale",
        help="Search scales (and, with nearest rounding, clipping) on the calibration text; on "
        "with compensated rounding when not given. Takes True or False as in LMDeploy.",
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
TargetOpt = Annotated[
    float | None,
    typer.Option(
        "--target-bpw",
        help="Mean bits per weight of the linears, scales included: the most sensitive get 8 bits, "
        "or 16 (or what else above --w-bits the format holds), as far as it reaches.",
    ),
]
FormatOpt = Annotated[
    Literal["auto", "awq", "gptq", "compressed-tensors"],
    typer.Option(
        "--format",
        help="How codes are written. auto is awq or gptq, as the command says; compressed-tensors "
        "for 2 and 3 bits and several widths of auto-awq, which awq does not hold.",
    ),
]
ShardOpt = Annotated[
    str, typer.Option("--max-shard-size", help="Largest weight file, for example 5GB or 500MB.")
]
