"""`mindpress lite kv-qparams`: scales of a cache, from recorded ranges, into a workspace."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from mindpress.cli.console import Console
from mindpress.cli.convert_cache import KvSymOpt, calibrated_on
from mindpress.cli.options import JsonOpt, QuietOpt
from mindpress.cli.progress import Progress
from mindpress.errors import ConfigError
from mindpress.formats.cache_spec import CacheSpec, Granularity

if TYPE_CHECKING:
    from mindpress.calib.statistics_file import CalibrationStatistics
    from mindpress.events import Listener

BITS = 8

StatisticsArg = Annotated[
    Path, typer.Argument(metavar="WORK_DIR", help="Folder of `mindpress lite calibrate`.")
]
WorkspaceArg = Annotated[
    Path,
    typer.Argument(metavar="WORKSPACE", help="Workspace, or its triton_models/weights."),
]
KvBitsOpt = Annotated[int, typer.Option("--kv-bits", help="Bits of the key/value cache: 8 or 4.")]
GranularityOpt = Annotated[
    Granularity, typer.Option("--granularity", help="What of the cache shares a scale.")
]
RanksOpt = Annotated[
    int | None,
    typer.Option("--num-tp", help="Must be the workspace's own number of GPUs, when it is given."),
]


@dataclass(frozen=True, slots=True)
class Output:
    """The workspace that gets scales, and their spec."""

    workspace: Path
    spec: CacheSpec


def kv_qparams(
    work_dir: StatisticsArg,
    workspace: WorkspaceArg,
    kv_bits: KvBitsOpt = BITS,
    kv_sym: KvSymOpt = False,
    granularity: GranularityOpt = "tensor",
    num_tp: RanksOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write the scales of an int8 or int4 cache into a workspace.

    They are made of the ranges that `mindpress lite calibrate` recorded.
    """
    from mindpress.calib.statistics_file import load_statistics
    from mindpress.convert.cache_output import check_cache_target

    output = Output(workspace, CacheSpec(kv_bits, kv_sym, granularity))
    found = load_statistics(work_dir)
    held = check_cache_target(workspace, output.spec, found.header.signature)
    if num_tp is not None and num_tp != held.config.tp:
        raise ConfigError(
            f"--num-tp {num_tp}: the workspace is for {held.config.tp}",
            hint=f"leave it out, or convert again with --tp {num_tp}",
        )
    console = Console(as_json=json, quiet=quiet)
    with Progress(console) as listener:
        files = write_scales(output, found, listener)
    console.result({"workspace": held.folder, "files": files, "spec": output.spec})
    console.heading(f"Wrote the scales of an int{kv_bits} cache to {held.folder}")
    console.pairs({"calibrated on": calibrated_on(found.header.origin), "files": len(files)})
    console.text(f"\nNext: mindpress chat {quote(str(held.folder))}")


def write_scales(
    output: Output, found: "CalibrationStatistics", listener: "Listener"
) -> list[Path]:
    """The files of the workspace that were written."""
    from mindpress.convert.cache_output import write_cache_scales

    header = found.header
    return write_cache_scales(
        output.workspace, found.ranges, output.spec, header.origin, header.signature, listener
    )
