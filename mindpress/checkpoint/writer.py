"""Safetensors shards written tensor by tensor, so that no shard is ever whole in memory.

A shard reserves room for its header (safetensors allows trailing spaces in it), tensors are
appended as they come, and the header is filled in when the shard is closed.
Format: https://github.com/huggingface/safetensors, section "Format".
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindpress.checkpoint.reader import DTYPES, INDEX
from mindpress.errors import ConfigError, ResourceError

NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_BYTES = 64  # what an entry takes beside its name: type, shape, offsets
ENTRY_BYTES = 160
METADATA = {"format": "pt"}  # one key only: safetensors writes several in random order


@dataclass
class _Shard:
    """A shard being written: where each tensor begins and ends in its data part."""

    file: Path
    reserved: int
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    size: int = 0


class ShardWriter:
    """Appends tensors to shards of at most `max_shard_bytes` in `folder`.

    `names` are all tensors that will come (their number bounds the headers). Peak memory is the
    tensor being written. `state` after a tensor and `resume` with it continue an earlier run.
    """

    def __init__(self, folder: Path, names: list[str], max_shard_bytes: int) -> None:
        self._folder, self._limit = folder, max_shard_bytes
        room = sum(len(name.encode()) + ENTRY_BYTES for name in names) + HEADER_BYTES
        self._reserved = -(-room // 8) * 8
        self._shards: list[_Shard] = []

    def write(self, name: str, tensor: Tensor) -> None:
        """Append one tensor."""
        data = tensor.detach().cpu().contiguous()
        nbytes = data.numel() * data.element_size()
        if not self._shards or (
            self._shards[-1].size and self._shards[-1].size + nbytes > self._limit
        ):
            self._shards.append(_Shard(self._part(len(self._shards)), self._reserved))
        shard = self._shards[-1]
        try:
            with shard.file.open("r+b" if shard.file.exists() else "w+b") as file:
                file.seek(8 + shard.reserved + shard.size)
                file.write(data.view(-1).view(torch.uint8).numpy().data)
        except OSError as error:
            hint = "free some space and run the command again"
            raise ResourceError(f"{shard.file}: {error.strerror}", hint=hint) from None
        shard.entries[name] = {
            "dtype": NAMES[data.dtype],
            "shape": list(data.shape),
            "data_offsets": [shard.size, shard.size + nbytes],
        }
        shard.size += nbytes

    @property
    def state(self) -> list[dict[str, Any]]:
        """What is written so far, as JSON; `resume` takes it back."""
        return [{"size": shard.size, "entries": shard.entries} for shard in self._shards]

    def resume(self, state: list[dict[str, Any]]) -> None:
        """Continue after the tensors of `state`; anything written later is cut off."""
        for number, saved in enumerate(state):
            shard = _Shard(self._part(number), self._reserved, saved["entries"], saved["size"])
            os.truncate(shard.file, 8 + shard.reserved + shard.size)
            self._shards.append(shard)
        for extra in self._folder.glob("part-*.safetensors"):
            if extra not in [shard.file for shard in self._shards]:
                extra.unlink()

    def finish(self) -> None:
        """Fill in the headers, name the shards, and write the index when there are several."""
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(self._shards, 1):
            _write_header(shard)
            name = (
                "model.safetensors"
                if count == 1
                else f"model-{number:05d}-of-{count:05d}.safetensors"
            )
            shard.file.rename(self._folder / name)
            weight_map |= dict.fromkeys(shard.entries, name)
        if count > 1:
            total = sum(shard.size for shard in self._shards)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (self._folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.safetensors"


def _write_header(shard: _Shard) -> None:
    header = json.dumps({"__metadata__": METADATA, **shard.entries}, separators=(",", ":"))
    encoded = header.encode()
    if len(encoded) > shard.reserved:
        raise ConfigError(f"{shard.file}: header of {len(encoded)} bytes, {shard.reserved} planned")
    with shard.file.open("r+b") as file:
        file.write(shard.reserved.to_bytes(8, "little"))
        file.write(encoded.ljust(shard.reserved))


def parse_size(text: str) -> int:
    """`5GB`, `500MB`, `2GiB` or a number of bytes, as transformers spells shard sizes."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    upper = text.strip().upper()
    unit = next((name for name in sorted(units, key=len, reverse=True) if upper.endswith(name)), "")
    try:
        size = int(float(upper.removesuffix(unit)) * units.get(unit, 1))
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(f"--max-shard-size {text}: not a size", hint="for example 5GB or 500MB")
    return size
