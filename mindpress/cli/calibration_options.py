"""Options of the commands that show a model calibration text."""

from typing import Annotated

import typer

DatasetOpt = Annotated[
    str,
    typer.Option(
        "--calib-dataset",
        help="ptb, wikitext2, c4, pileval, a .txt, .jsonl or .parquet file, or a Hub id.",
    ),
]
SamplesOpt = Annotated[int, typer.Option("--calib-samples", help="Calibration samples.")]
LengthOpt = Annotated[
    int, typer.Option("--calib-seqlen", help="Tokens per sample, at most the model's maximum.")
]
BatchOpt = Annotated[
    int, typer.Option("--batch-size", help="Samples that run through a layer at once.")
]
