"""The tensors of a folder as views of its memory-mapped shards, for one pass over all of them."""

import json
import mmap
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mindpress.checkpoint.reader import Checkpoint
from mindpress.errors import InputError

LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Shard:
    """A mapped file and where each of its tensors begins."""

    pages: mmap.mmap
    offsets: dict[str, int]


class MappedCheckpoint(Checkpoint):
    """A Checkpoint whose tensors are not copied: they are read when they are first used.

    Nothing may be written to them. `release` gives the pages read so far back to the system, so
    that this process never holds more than what was used since the last call.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._maps = {info.file: _map(info.file) for info in self.tensors.values()}

    def tensor(self, name: str) -> Tensor:
        """One tensor, in its stored dtype, on the CPU: a view of the file."""
        info = self.tensors[name]
        shard = self._maps[info.file]
        count = info.nbytes // info.dtype.itemsize
        if not count:
            return torch.empty(info.shape, dtype=info.dtype)
        flat = torch.frombuffer(
            shard.pages, dtype=info.dtype, count=count, offset=shard.offsets[name]
        )
        return flat.view(info.shape)

    def release(self) -> None:
        """Drop the pages that were read; a tensor that is still used reads its own again."""
        for shard in self._maps.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                shard.pages.madvise(mmap.MADV_DONTNEED)


def _map(file: Path) -> _Shard:
    """Private pages, because torch wants memory that could be written.

    Format: https://github.com/huggingface/safetensors, section "Format"; the header was checked
    when the checkpoint was opened.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
            header = json.loads(opened.read(length))
            pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}") from None
    header.pop("__metadata__", None)
    data = LENGTH_BYTES + length
    return _Shard(pages, {name: data + entry["data_offsets"][0] for name, entry in header.items()})
