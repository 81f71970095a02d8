"""Options that several commands share; each is declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ModelArg = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a model, or its id on the Hub.")
]
PathArg = Annotated[
    str,
    typer.Argument(
        metavar="PATH", help="Folder of a model, workspace of `convert`, or id on the Hub."
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietOpt = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no notes; warnings and errors stay.")
]
DeviceOpt = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Where to compute; auto takes the GPU when there is one."),
]
DtypeOpt = Annotated[
    Literal["auto", "float16", "bfloat16"],
    typer.Option("--dtype", help="16-bit type of what is not quantized; auto keeps the model's."),
]
RunDtypeOpt = Annotated[
    Literal["auto", "float32", "float16", "bfloat16"],
    typer.Option("--dtype", help="Type to compute in; auto fits the model and the device."),
]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed of the choice of calibration samples.")]
RevisionOpt = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit on the Hub.")
]
DownloadDirOpt = Annotated[
    Path | None, typer.Option("--download-dir", help="Where to keep what the Hub sends.")
]
TrustOpt = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run the Python code that a model brings along."),
]
DryRunOpt = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the plan, write nothing.")
]
OverwriteOpt = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output folder when it is one of ours.")
]
AfreshOpt = Annotated[
    bool,
    typer.Option("--overwrite", help="Throw away what an interrupted run has measured."),
]
ThreadsOpt = Annotated[
    int | None, typer.Option("--threads", help="CPU threads; all cores when not given.")
]
PolicyOpt = Annotated[
    int | None,
    typer.Option(
        "--quant-policy",
        help="Bits of the key/value cache: 8, 4, or 0 for floats. (the workspace's, or 0)",
    ),
]
KernelsOpt = Annotated[
    Literal["auto", "triton", "cpu", "cpu-int8", "reference"],
    typer.Option(
        "--kernels",
        help="What multiplies with 4-bit weights: triton on a GPU, cpu; cpu-int8 also rounds "
        "activations to 8 bits, which is faster; reference dequantizes weights when they are "
        "loaded; auto is triton or cpu where they can run.",
    ),
]
MaxBatchSizeOpt = Annotated[
    int | None,
    typer.Option("--max-batch-size", help="Sequences that are computed at once, at most."),
]
SessionLenOpt = Annotated[
    int | None,
    typer.Option("--session-len", help="Tokens of a sequence, prompt and answer, at most."),
]
CacheShareOpt = Annotated[
    float,
    typer.Option(
        "--cache-max-entry-count",
        help="Share of the memory free after loading that the cache may take.",
    ),
]
CacheSizeOpt = Annotated[
    str | None,
    typer.Option("--cache-memory", help="What the cache may take instead, for example 4GiB."),
]
MaxPrefillOpt = Annotated[
    int,
    typer.Option("--max-prefill-token-num", help="Tokens that are computed in a step, at most."),
]
MaxNewTokensOpt = Annotated[
    int, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")
]
TemperatureOpt = Annotated[
    float | None,
    typer.Option("--temperature", help="0 is greedy; higher is more surprising. (model's, or 0.8)"),
]
TopKOpt = Annotated[
    int | None,
    typer.Option("--top-k", help="Choose among so many tokens; 0 is all. (model's, or 40)"),
]
TopPOpt = Annotated[
    float | None,
    typer.Option(
        "--top-p", help="Choose among the likeliest of this probability. (model's, or 0.95)"
    ),
]
PenaltyOpt = Annotated[
    float | None,
    typer.Option(
        "--repetition-penalty", help="Above 1, repeated tokens are less likely. (model's, or 1)"
    ),
]
GenerationSeedOpt = Annotated[
    int | None, typer.Option("--seed", help="The same seed gives the same answer.")
]
StopOpt = Annotated[
    list[str] | None, typer.Option("--stop", help="End the answer here; may be given again.")
]
