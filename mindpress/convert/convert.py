"""Convert a model folder to a TurboMind workspace, streaming its tensors."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.staging import StagedFolder
from mindpress.checkpoint.verify import verify_weights
from mindpress.convert.cache_contents import CacheContents, cache_contents
from mindpress.convert.cache_output import write_contents
from mindpress.convert.planning import ConversionPlan, plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.convert.staged_weights import WEIGHTS, StagedWeights
from mindpress.convert.tokens import copy_files
from mindpress.events import Finished, Listener, ignore
from mindpress.formats.cache_scales import CacheRanges
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.turbomind_text import write_config
from mindpress.sources.workspace import open_workspace

__all__ = ["ConversionPlan", "ConversionReport", "convert_model", "plan_conversion"]

Measured = tuple[CacheRanges, Mapping[str, str]]
# Ranges of keys and values, and how they were found. It may keep unfinished work at the path.
Calibrate = Callable[[Path, Listener], Measured]


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was written and how long it took. `bytes` and `files` count everything but the manifest.

    `origin` says on what the cache was calibrated; empty where it was not.
    """

    target: Path
    tm_version: str
    config: str
    tp: int
    weight_type: str
    cache: CacheSpec | None
    bytes: int
    files: int
    seconds: float
    notes: tuple[str, ...]
    origin: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "target": str(self.target),
            "tm_version": self.tm_version,
            "config": self.config,
            "tp": self.tp,
            "weight_type": self.weight_type,
            "cache": asdict(self.cache) if self.cache else None,
            "bytes": self.bytes,
            "files": self.files,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def convert_model(
    settings: Conversion, listener: Listener = ignore, calibrate: Calibrate | None = None
) -> ConversionReport:
    """Write the workspace of `settings`; it appears whole or not at all.

    An interrupted run leaves a hidden folder beside the target; the same call goes on from it, and
    with `overwrite` another starts afresh. `calibrate` is there where `settings.cache` is
    calibrated. Peak memory: the linears that read one input, and the files being written. Raises
    what `plan_conversion` and `calibrate` raise, InputError for ranges of another model,
    NumericError for weights and ranges that are not finite, and ResourceError.
    """
    begun, target = time.perf_counter(), settings.target
    with StagedFolder(target, "workspace", overwrite=settings.overwrite) as staged:
        plan = plan_conversion(settings, calibrated=calibrate is not None)
        verify_weights(plan.folder.folder, listener)
        measured = calibrate(staged.aside / "calibration", listener) if calibrate else None
        ranges, origin = measured or (None, {})
        cache = cache_contents(ranges, plan.cache, plan.config) if plan.cache else None
        notes = (*plan.notes, *(cache.notes if cache else ()))
        for note in notes:
            listener(note)
        weights = StagedWeights(plan, (_bytes(ranges), sorted(origin.items())), staged)
        staged.resumed(lambda: weights.resume(listener))
        digests = weights.write(listener)
        extra = _write_others(plan, cache, origin, staged.path)
        staged.commit({(WEIGHTS / name).as_posix(): digest for name, digest in digests.items()})
    seconds = time.perf_counter() - begun
    listener(Finished(seconds))
    return ConversionReport(
        target=plan.target,
        tm_version=plan.dialect.version,
        config=plan.dialect.file,
        tp=plan.config.tp,
        weight_type=plan.config.weight_type,
        cache=plan.cache,
        bytes=plan.bytes + sum(extra),
        files=len(plan.files) + len(extra),
        seconds=seconds,
        notes=tuple(note.text for note in notes),
        origin=origin,
    )


def _write_others(
    plan: ConversionPlan, cache: CacheContents | None, origin: Mapping[str, str], root: Path
) -> list[int]:
    """Write everything below `root` that is no weight; the bytes of each file."""
    config, tokenizer = root / WEIGHTS / plan.dialect.file, root / WEIGHTS.parent / "tokenizer"
    with disk_errors(root):
        tokenizer.mkdir(exist_ok=True)
        config.write_bytes(write_config(plan.config, plan.dialect).encode())
    written = [config, *copy_files(plan.copied, tokenizer)]
    if cache is not None:
        written += write_contents(open_workspace(root), cache, origin)
    return [file.stat().st_size for file in written]


def _bytes(ranges: CacheRanges | None) -> bytes:
    if ranges is None:
        return b""
    extremes = (ranges.keys.low, ranges.keys.high, ranges.values.low, ranges.values.high)
    return b"".join(found.numpy().tobytes() for found in extremes)
