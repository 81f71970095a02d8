"""`mindpress inspect`: what a folder or workspace is, and what is wrong with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindpress.cli.console import Console
from mindpress.cli.options import DownloadDirOpt, JsonOpt, PathArg, QuietOpt, RevisionOpt
from mindpress.cli.progress import Progress
from mindpress.errors import InputError
from mindpress.formats.cache_spec import CacheSpec
from mindpress.report.numbers import number, size

if TYPE_CHECKING:
    from mindpress.sources.inspect import Inspection


VerifyOpt = Annotated[
    bool,
    typer.Option(
        "--verify", help="Read every file, and compare it with the hash it was written with."
    ),
]


def inspect(
    path: PathArg,
    verify: VerifyOpt = False,
    revision: RevisionOpt = None,
    download_dir: DownloadDirOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Say what a folder or workspace is and what is wrong.

    Family, format, parameters, bits per weight, size, tp. Exits with 3 when something is wrong.
    """
    from mindpress.checkpoint.hub import local_folder
    from mindpress.sources.inspect import inspect_path

    console = Console(as_json=json, quiet=quiet)
    folder = local_folder(path, revision=revision, download_dir=download_dir)
    with Progress(console) as listener:
        found = inspect_path(Path(folder), hashes=verify, listener=listener)
    console.result(found.as_dict())
    console.heading(f"{path}: {found.kind}")
    console.pairs(described(found))
    for problem in found.problems:
        console.error(problem)
    if found.problems:
        raise typer.Exit(InputError.exit_code)


def described(found: "Inspection") -> dict[str, object]:
    """The figures of an inspection as people read them; None is not shown."""
    heads = found.heads and f"{found.heads} of {found.head_dim} channels, {found.kv_heads} for keys"
    return {
        "format": found.format,
        "family": found.family,
        "parameters": None if found.parameters is None else number(found.parameters),
        "bits per weight": None if found.bits_per_weight is None else number(found.bits_per_weight),
        "size": None if found.bytes is None else size(found.bytes),
        "tp": found.tp,
        "layers": found.layers,
        "hidden": found.hidden,
        "heads": heads,
        "vocabulary": found.vocab,
        "group size": found.group_size,
        "dtype": found.dtype,
        "cache": cache_words(found.cache),
        "version": found.version,
        "verified": None if found.verified is None else f"{found.verified} files, by their hashes",
    }


def cache_words(spec: CacheSpec | None) -> str | None:
    """`int8, calibrated per head`; None for a cache of floats."""
    scaled = {
        "tensor": "calibrated per tensor",
        "head": "calibrated per head",
        "channel": "keys calibrated per channel, values scaled per token",
        "token": "scaled per token",
    }
    if spec is None:
        return None
    kind = " symmetric" if spec.symmetric else ""
    return f"int{spec.bits}{kind}, {scaled[spec.granularity]}"
