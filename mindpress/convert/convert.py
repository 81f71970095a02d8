"""Convert a model folder to a TurboMind workspace, streaming its tensors."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mindpress.checkpoint.mapped import MappedCheckpoint
from mindpress.checkpoint.staging import StagedFolder, disk_errors
from mindpress.convert.cache_contents import CacheContents, cache_contents
from mindpress.convert.cache_output import write_contents
from mindpress.convert.output import TensorFiles, one_thread_each
from mindpress.convert.planning import ConversionPlan, plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.convert.tokens import copy_files
from mindpress.convert.weights import WeightFiles
from mindpress.events import Advanced, Finished, Listener, Started, ignore
from mindpress.formats.cache_scales import CacheRanges
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.turbomind_text import write_config
from mindpress.sources.workspace import open_workspace

__all__ = ["ConversionPlan", "ConversionReport", "convert_model", "plan_conversion"]


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was written and how long it took. `bytes` and `files` count everything."""

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
    settings: Conversion,
    listener: Listener = ignore,
    ranges: CacheRanges | None = None,
    origin: Mapping[str, str] | None = None,
) -> ConversionReport:
    """Write the workspace of `settings`; it appears whole or not at all.

    `ranges` are those of the model's keys and values where `settings.cache` is calibrated, and
    `origin` says how they were found. Peak memory: the linears that read one input, and the files
    being written. Raises what `plan_conversion` raises, InputError for ranges of another model,
    NumericError for weights and ranges that are not finite, and ResourceError.
    """
    begun = time.perf_counter()
    plan = plan_conversion(settings, calibrated=ranges is not None)
    cache = cache_contents(ranges, plan.cache, plan.config) if plan.cache else None
    notes = (*plan.notes, *(cache.notes if cache else ()))
    for note in notes:
        listener(note)
    with StagedFolder(plan.target, "workspace", overwrite=plan.overwrite) as staged:
        side_bytes = _write(plan, staged.path, listener)
        extra = _write_cache(staged.path, cache, origin or {})
        staged.commit()
    seconds = time.perf_counter() - begun
    listener(Finished(seconds))
    return ConversionReport(
        target=plan.target,
        tm_version=plan.dialect.version,
        config=plan.dialect.file,
        tp=plan.config.tp,
        weight_type=plan.config.weight_type,
        cache=plan.cache,
        bytes=plan.bytes + side_bytes + sum(extra),
        files=len(plan.files) + len(plan.copied) + 1 + len(extra),
        seconds=seconds,
        notes=tuple(note.text for note in notes),
    )


def _write(plan: ConversionPlan, root: Path, listener: Listener) -> int:
    """Write everything below `root` and return the bytes of what is no weight."""
    weights = root / "triton_models" / "weights"
    tokenizer = root / "triton_models" / "tokenizer"
    text = write_config(plan.config, plan.dialect).encode()
    with disk_errors(weights):
        weights.mkdir(parents=True)
        tokenizer.mkdir()
        (weights / plan.dialect.file).write_bytes(text)
    copied = copy_files(plan.copied, tokenizer)
    listener(Started("convert", plan.config.layers))
    checkpoint = MappedCheckpoint(plan.folder.folder)
    tensors = WeightFiles(replace(plan.folder, checkpoint=checkpoint), plan.config)
    with one_thread_each(), TensorFiles(weights) as output:
        for name, tensor in tensors.outer():
            output.write(name, tensor)
            checkpoint.release()
        for layer in range(plan.config.layers):
            for name, tensor in tensors.layer(layer):
                output.write(name, tensor)
            checkpoint.release()
            listener(Advanced(layer + 1))
    return len(text) + copied


def _write_cache(
    root: Path, contents: CacheContents | None, origin: Mapping[str, str]
) -> list[int]:
    """Write the scales of a cache, and the bytes of each of their files."""
    if contents is None:
        return []
    return [file.stat().st_size for file in write_contents(open_workspace(root), contents, origin)]
