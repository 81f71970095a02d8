"""Safetensors shards written tensor by tensor, so that no shard is ever whole in memory.

A shard reserves room for its header (safetensors allows trailing spaces in it), tensors are
appended as they come, and the header is filled in when the shard is closed.
Format: https://github.com/huggingface/safetensors, section "Format".
"""

import json
import os
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindpress.checkpoint.disk import disk_errors, sync
from mindpress.checkpoint.reader import DTYPES, INDEX
from mindpress.errors import ConfigError, InputError

NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_BYTES = 64  # braces and metadata
ENTRY_BYTES = 160  # what an entry takes beside its name: type, shape, offsets
METADATA = {"format": "pt"}  # one key only: safetensors writes several in random order


@dataclass
class _Shard:
    """A shard being written: where each tensor begins and ends in its data part, and its hash."""

    file: Path
    reserved: int
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    size: int = 0

    @property
    def begin(self) -> int:
        """Where its data part begins in the file."""
        return 8 + self.reserved


class ShardWriter:
    """Appends tensors to shards of at most `max_shard_bytes` in `folder`.

    `names` are all tensors that will come (their number bounds the headers). Peak memory is the
    tensor being written. `state` after a tensor and `resume` with it continue an earlier run.
    """

    def __init__(self, folder: Path, names: list[str], max_shard_bytes: int) -> None:
        self._folder, self._limit = folder, max_shard_bytes
        room = sum(len(json.dumps(name)) + ENTRY_BYTES for name in names) + HEADER_BYTES
        self._reserved = -(-room // 8) * 8
        self._shards: list[_Shard] = []

    def write(self, name: str, tensor: Tensor) -> None:
        """Append one tensor. ResourceError when the disk is full."""
        data = tensor.detach().cpu().contiguous()
        nbytes = data.numel() * data.element_size()
        shard = self._shard_for(nbytes)
        with disk_errors(shard.file), shard.file.open("r+b") as file:
            file.seek(shard.begin + shard.size)
            contents = data.view(-1).view(torch.uint8).numpy().data
            file.write(contents)
        shard.entries[name] = {
            "dtype": NAMES[data.dtype],
            "shape": list(data.shape),
            "data_offsets": [shard.size, shard.size + nbytes],
        }
        shard.digests[name] = sha256(contents).hexdigest()
        shard.size += nbytes

    @property
    def state(self) -> list[dict[str, Any]]:
        """What is written so far, as JSON; `resume` takes it back."""
        return [
            {"size": shard.size, "entries": shard.entries, "digests": shard.digests}
            for shard in self._shards
        ]

    def sync(self) -> None:
        """Wait until what is written is on the disk, before a journal says that it is."""
        for shard in self._shards:
            with disk_errors(shard.file):
                sync(shard.file)

    def resume(self, state: list[dict[str, Any]]) -> None:
        """Continue after the tensors of `state`; anything written later is cut off.

        InputError when what was written before is not as it was written, ResourceError when it
        cannot be read or cut.
        """
        shards = [
            _Shard(self._part(number), self._reserved, **saved)
            for number, saved in enumerate(state)
        ]
        with disk_errors(self._folder):
            for number, shard in enumerate(shards):
                self._take_back(number)
                _cut(shard)
                with disk_errors(shard.file, "read"):
                    _check(shard)
            for extra in self._folder.glob("part-*.safetensors"):
                if extra not in [shard.file for shard in shards]:
                    extra.unlink()
        self._shards = shards

    def finish(self) -> None:
        """Fill in the headers, name the shards, and write the index when there are several."""
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(self._shards, 1):
            name = (
                "model.safetensors"
                if count == 1
                else f"model-{number:05d}-of-{count:05d}.safetensors"
            )
            with disk_errors(shard.file):
                _write_header(shard)
                shard.file.rename(self._folder / name)
            weight_map |= dict.fromkeys(shard.entries, name)
        if count > 1:
            total = sum(shard.size for shard in self._shards)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            with disk_errors(self._folder / INDEX):
                text = json.dumps(index, indent=2, sort_keys=True) + "\n"
                (self._folder / INDEX).write_text(text, encoding="utf-8")

    def _take_back(self, number: int) -> None:
        """A run killed within `finish` has named some of its shards already."""
        for name in ("model.safetensors", f"model-{number + 1:05d}-of-*.safetensors"):
            for file in self._folder.glob(name):
                file.rename(self._part(number))

    def _shard_for(self, nbytes: int) -> _Shard:
        """The last shard, or a new one when `nbytes` more would pass the limit."""
        last = self._shards[-1] if self._shards else None
        if last is None or (last.size and last.size + nbytes > self._limit):
            last = _Shard(self._part(len(self._shards)), self._reserved)
            with disk_errors(last.file), last.file.open("wb") as file:
                file.truncate(last.begin)  # also drops what a killed run left there
            self._shards.append(last)
        return last

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.safetensors"


def _cut(shard: _Shard) -> None:
    """Drop what was written after the journal was; refuse a shard that lacks something."""
    there = shard.file.stat().st_size if shard.file.is_file() else 0
    if shard.size < 0 or there < shard.begin + shard.size:
        raise _damaged(shard, f"{there} bytes of {shard.begin + shard.size}")
    os.truncate(shard.file, shard.begin + shard.size)


def _check(shard: _Shard) -> None:
    """Refuse a shard with a tensor that is not what was written. Peak memory: one tensor."""
    with shard.file.open("rb") as file:
        for name, entry in shard.entries.items():
            begin, end = entry["data_offsets"]
            file.seek(shard.begin + begin)
            if sha256(file.read(end - begin)).hexdigest() != shard.digests[name]:
                raise _damaged(shard, f"`{name}` changed")


def _damaged(shard: _Shard, what: str) -> InputError:
    return InputError(
        f"{shard.file}: the unfinished output is damaged: {what}",
        hint="start again with --overwrite",
    )


def _write_header(shard: _Shard) -> None:
    header = json.dumps({"__metadata__": METADATA, **shard.entries}, separators=(",", ":"))
    encoded = header.encode()
    if len(encoded) > shard.reserved:
        raise ConfigError(f"{shard.file}: header of {len(encoded)} bytes, {shard.reserved} planned")
    with shard.file.open("r+b") as file:
        file.write(shard.reserved.to_bytes(8, "little"))
        file.write(encoded.ljust(shard.reserved))


def parse_size(text: str, flag: str = "--max-shard-size") -> int:
    """`5GB`, `500MB`, `2GiB` or a number of bytes, as transformers spells shard sizes."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    upper = text.strip().upper()
    unit = next((name for name in sorted(units, key=len, reverse=True) if upper.endswith(name)), "")
    try:
        size = float(upper.removesuffix(unit)) * units.get(unit, 1)
    except ValueError:
        size = 0.0
    if not isfinite(size) or size < 1:
        raise ConfigError(f"{flag} {text}: not a size", hint="for example 5GB or 500MB")
    return int(size)
