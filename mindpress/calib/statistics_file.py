"""Statistics of a calibration run on disk: `statistics.safetensors` under a JSON header.

Tensors are float32: `layers.3.self_attn.q_proj.input.absmax` [channels], and
`layers.3.keys.min` [kv_heads, channels]. Linears have the names of the transformers class that
runs the block.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mindpress.calib.statistics_header import (
    AGAIN,
    CHANNEL_NAMES,
    HEADER,
    StatisticsHeader,
    read_header,
)
from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.manifest import file_digest
from mindpress.checkpoint.writer import ShardWriter
from mindpress.errors import ConfigError, InputError
from mindpress.formats.cache_scales import CacheRanges, Ranges

TENSORS = "statistics.safetensors"


@dataclass(frozen=True, slots=True)
class CalibrationStatistics:
    """A checked folder of statistics; tensors are read when they are asked for."""

    folder: Path
    header: StatisticsHeader

    @property
    def ranges(self) -> CacheRanges:
        """The extremes of keys and values of all layers, [layers, kv_heads, channels]."""
        return CacheRanges(self._stacked("keys"), self._stacked("values"))

    def linear(
        self, layer: int, name: str, side: Literal["input", "output"]
    ) -> dict[str, Float32[Tensor, " channels"]]:
        """absmax, absmean, min, max and mean of what a linear is fed, or gives."""
        if name not in self.header.linears:
            there = ", ".join(self.header.linears) or "keys and values only"
            raise ConfigError(
                f"{self.folder}: no statistics of `{name}` ({there})",
                hint="`mindpress lite calibrate MODEL`, without kv, records every linear",
            )
        prefix = f"layers.{layer}.{name}.{side}"
        return {part: self.tensor(f"{prefix}.{part}") for part in CHANNEL_NAMES}

    def tensor(self, name: str) -> Float32[Tensor, "..."]:
        """One tensor by its name in the file."""
        with safe_open(self.folder / TENSORS, framework="pt", backend="pread") as file:
            return file.get_tensor(name)

    def _stacked(self, part: str) -> Ranges:
        low, high = (
            torch.stack([self.tensor(f"layers.{i}.{part}.{e}") for i in range(self.header.layers)])
            for e in ("min", "max")
        )
        if not (low <= high).all() or not (low.isfinite() & high.isfinite()).all():
            raise InputError(f"{self.folder / TENSORS}: ranges of {part} are no ranges", hint=AGAIN)
        return Ranges(low, high)


class StatisticsWriter:
    """Writes a folder layer by layer; `state` and `resume` continue an interrupted run."""

    def __init__(self, folder: Path, header: StatisticsHeader) -> None:
        self._folder, self._header = folder, header
        self._shards = ShardWriter(folder, list(header.shapes()), sys.maxsize)

    def layer(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Append the tensors of a layer, named relative to it."""
        for name in self._header.layer_shapes():
            self._shards.write(f"layers.{index}.{name}", tensors[name].float())

    @property
    def state(self) -> list[dict[str, Any]]:
        """What is written so far, as JSON."""
        return self._shards.state

    def sync(self) -> None:
        """Wait until what is written is on the disk."""
        self._shards.sync()

    def resume(self, state: list[dict[str, Any]]) -> None:
        """Continue after what `state` says; anything later is cut off. An empty one starts anew."""
        done = self._folder / TENSORS
        if done.exists():  # a run that was killed within `finish`
            with disk_errors(self._folder):
                done.rename(self._folder / "model.safetensors")
        self._shards.resume(state)

    def finish(self, clamped: tuple[int, ...] = ()) -> StatisticsHeader:
        """Close the file and write the header, which is given back."""
        self._shards.finish()
        with disk_errors(self._folder):
            (self._folder / "model.safetensors").rename(self._folder / TENSORS)
            digest = file_digest(self._folder / TENSORS)
            header = replace(self._header, clamped=clamped, sha256=digest)
            text = json.dumps(asdict(header), indent=2) + "\n"
            (self._folder / HEADER).write_text(text, encoding="utf-8")
        return header


def save_statistics(
    folder: Path, header: StatisticsHeader, layers: Iterable[Mapping[str, Tensor]]
) -> StatisticsHeader:
    """Write the statistics of all layers, in order, to a folder that exists."""
    writer = StatisticsWriter(folder, header)
    for index, tensors in enumerate(layers):
        writer.layer(index, tensors)
    return writer.finish(header.clamped)


def load_statistics(folder: Path) -> CalibrationStatistics:
    """The statistics in a folder, checked against their header.

    InputError that names the file when one is missing, damaged, or not of this run.
    """
    header = read_header(folder)
    file = folder / TENSORS
    if not file.is_file():
        raise InputError(f"{file}: no such file", hint=AGAIN)
    _check_tensors(file, header)
    if file_digest(file) != header.sha256:
        raise InputError(f"{file}: damaged, or of another run than {HEADER}", hint=AGAIN)
    return CalibrationStatistics(folder, header)


def _check_tensors(file: Path, header: StatisticsHeader) -> None:
    try:
        with safe_open(file, framework="pt", backend="pread") as tensors:
            there = {n: tensors.get_slice(n) for n in tensors.keys()}  # noqa: SIM118
            found = {n: (tuple(x.get_shape()), x.get_dtype()) for n, x in there.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: truncated or damaged: {error}", hint=AGAIN) from None
    expected = {name: (size, "F32") for name, size in header.shapes().items()}
    if found != expected:
        wrong = min(n for n in {*found, *expected} if found.get(n) != expected.get(n))
        raise InputError(f"{file}: `{wrong}` is not what {HEADER} describes", hint=AGAIN)
