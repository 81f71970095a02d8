"""What is finished of a long run, so that an interrupted one goes on where it was."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindpress.errors import ConfigError, InputError

FILE = "journal.json"


class Journal:
    """A JSON file in the staged folder, replaced whole after every finished block.

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
            saved = json.loads(self._file.read_text())
            known, state = saved["fingerprint"], saved["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._file}: the journal of an interrupted run is damaged: {error}",
                hint="add --overwrite to start afresh",
            ) from None
        if known != self._fingerprint:
            raise ConfigError(
                f"{self._file.parent}: an interrupted run with other settings or another model",
                hint="repeat its arguments to resume it, or add --overwrite to start afresh",
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the journal in one step."""
        fresh = self._file.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump({"fingerprint": self._fingerprint, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)

    def remove(self) -> None:
        """The run is complete."""
        self._file.unlink(missing_ok=True)


def fingerprint(*parts: object, files: list[Path]) -> str:
    """A hash of settings (by their repr) and of files (by name, size and time of change)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
