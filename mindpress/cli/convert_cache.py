"""What `mindpress convert` is asked to do about keys and values, and the calibration it takes."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError, InputError
from mindpress.events import Listener
from mindpress.formats.cache_spec import CacheSpec, Granularity
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.recipe import Calibration

if TYPE_CHECKING:
    from mindpress.convert.planning import ConversionPlan
    from mindpress.formats.cache_scales import CacheRanges

KvBitsOpt = Annotated[
    int | None,
    typer.Option("--kv-bits", help="Bits of the key/value cache, 8 or 4; floats when not given."),
]
KvSymOpt = Annotated[
    bool, typer.Option("--kv-sym/--no-kv-sym", help="A cache without zero points.")
]
GranularityOpt = Annotated[
    Literal["tensor", "head", "channel", "token"] | None,
    typer.Option(
        "--granularity",
        help="What of the cache shares a scale; token without --calib, tensor with it.",
    ),
]
CalibOpt = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATASET_OR_FOLDER",
        help="Text to calibrate the cache on (ptb, wikitext2, c4, pileval, a file, a Hub id), or a "
        "folder of `mindpress lite calibrate`.",
    ),
]
SamplesOpt = Annotated[int, typer.Option("--calib-samples", help="Calibration samples.")]
LengthOpt = Annotated[
    int, typer.Option("--calib-seqlen", help="Tokens per sample, at most the model's maximum.")
]
BatchOpt = Annotated[
    int, typer.Option("--batch-size", help="Calibration samples that run through a layer at once.")
]


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """The cache that is wanted; `calib` is a folder of statistics or what `calibration` names."""

    spec: CacheSpec | None = None
    calib: str | None = None
    calibration: Calibration | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of statistics that an earlier run wrote."""
        path = None if self.calib is None else Path(self.calib).expanduser()
        return path if path is not None and path.is_dir() else None


def cache_request(
    bits: int | None,
    symmetric: bool,
    granularity: Granularity | None,
    calib: str | None,
    calibration: Calibration,
) -> CacheRequest:
    """The request of the flags. ConfigError for flags that make no sense together."""
    default = Calibration(calibration.dataset)
    given = {
        "--kv-sym": symmetric,
        "--granularity": granularity is not None,
        "--calib": calib is not None,
    }
    stray = next((flag for flag, is_given in given.items() if is_given), None)
    if bits is None and stray:
        raise ConfigError(f"{stray}: there is no quantized cache", hint="add --kv-bits 8")
    request = CacheRequest(calib=calib, calibration=calibration)
    if calibration != default and (calib is None or request.folder):
        why = "an earlier run's statistics are given" if calib else "nothing is calibrated"
        raise ConfigError(
            f"--calib-samples, --calib-seqlen, --batch-size: {why}", hint="leave them out"
        )
    if bits is None:
        return request
    chosen = granularity or ("tensor" if calib else "token")
    return CacheRequest(CacheSpec(bits, symmetric, chosen), calib, calibration)


def plan_of(request: CacheRequest, settings: Conversion) -> "ConversionPlan":
    """The checked conversion, its calibration aside."""
    from mindpress.convert.convert import plan_conversion

    return plan_conversion(settings, calibrated=request.calib is not None)


def check_request(request: CacheRequest, settings: Conversion) -> "ConversionPlan":
    """Everything about the conversion and its calibration that can be checked without work."""
    plan = plan_of(request, settings)
    if request.folder:
        read_statistics(request.folder, plan)
    elif request.calib:
        from mindpress.lite.calibration_plan import check_calibration

        with tempfile.TemporaryDirectory() as place:
            check_calibration(calibration_run(request, settings), Path(place) / "statistics")
    return plan


def calibrated(
    request: CacheRequest, settings: Conversion, place: Path, listener: Listener
) -> tuple["CacheRanges", Mapping[str, str]]:
    """The ranges of the model's keys and values, and how they were found; calibrates if need be,
    with unfinished work beside `place`.
    """
    if request.folder:
        return read_statistics(request.folder, plan_of(request, settings))
    from mindpress.lite.calibrate import calibrate_aside

    run = calibration_run(request, settings)
    found, header = calibrate_aside(run, place, overwrite=settings.overwrite, listener=listener)
    return found, header.origin


def calibration_run(request: CacheRequest, settings: Conversion) -> CalibrationRun:
    """The calibration of the source's keys and values."""
    return CalibrationRun(settings.source, request.calibration or Calibration(), cache_only=True)


def calibrated_on(origin: Mapping[str, str]) -> str | None:
    """`wikitext2, 128 samples of 2048 tokens`; None where nothing was calibrated."""
    if not origin:
        return None
    return f"{origin['dataset']}, {origin['samples']} samples of {origin['length']} tokens"


def read_statistics(
    folder: Path, plan: "ConversionPlan"
) -> tuple["CacheRanges", Mapping[str, str]]:
    """The ranges in a folder, and their origin. InputError when they are of another model."""
    from mindpress.calib.statistics_file import load_statistics
    from mindpress.sources.signature import cache_signature, same_cache

    found = load_statistics(folder)
    if not same_cache(found.header.signature, cache_signature(plan.folder)):
        raise InputError(
            f"{folder}: statistics of another model ({found.header.model}), or of the same one"
            " before its values were smoothed",
            hint=f"calibrate {plan.folder.folder}, or give --calib a dataset",
        )
    return found.ranges, found.header.origin
