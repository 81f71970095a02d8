"""What is finished of a long run, so that an interrupted one goes on where it was."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mindpress.checkpoint.replacing import replace_file
from mindpress.errors import ConfigError, InputError

FILE = "journal.json"
SHARD = ".safetensors"
LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100 * 2**20  # as safetensors allows


class Journal:
    """A JSON file beside the staged output, replaced whole after every finished block.

    `fingerprint` identifies the request; an earlier journal with another one is refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._file, self._fingerprint = folder / FILE, fingerprint

    def load(self) -> dict[str, Any] | None:
        """What an earlier run saved, or None when there was none.

        Raises ConfigError when the earlier run was of another request.
        """
        if not self._file.is_file():
            return None
        try:
            saved = json.loads(self._file.read_text(encoding="utf-8"))
            known, state = saved["fingerprint"], saved["state"]
            if not isinstance(state, dict):
                raise TypeError(f"a state that is a {type(state).__name__}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.damaged(error) from None
        if known != self._fingerprint:
            raise ConfigError(
                f"{self._file.parent}: an interrupted run with other settings or another model",
                hint="repeat its arguments to resume it, or add --overwrite to start afresh",
            )
        return state

    def damaged(self, reason: object) -> InputError:
        """What to raise for a state that does not hold what it should."""
        return InputError(
            f"{self._file}: the journal of an interrupted run is damaged: {reason}",
            hint="add --overwrite to start afresh",
        )

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the journal in one step; it is on the disk when this returns. ResourceError."""
        text = json.dumps({"fingerprint": self._fingerprint, "state": state})
        replace_file(self._file, text.encode())


def fingerprint(*parts: object, files: Iterable[Path]) -> str:
    """A hash of settings (by their repr, or as bytes) and of files.

    Shards, which are large, count by name, size, time of change and header; others by what is in
    them.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode())
        digest.update(_shard(file) if file.suffix == SHARD else file.read_bytes())
    return digest.hexdigest()


def _shard(file: Path) -> bytes:
    status = file.stat()
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
        header = opened.read(min(length, MOST_HEADER_BYTES))
    return f"{status.st_size} {status.st_mtime_ns}\0".encode() + header
