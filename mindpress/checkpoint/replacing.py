"""One file of an existing folder, replaced whole: nobody ever reads half of it."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from mindpress.checkpoint.disk import disk_errors, sync

TEMPORARY = ".{}.new"


def remove_unfinished(folder: Path) -> None:
    """Delete what replacements left below `folder` that were killed."""
    for file in folder.rglob(TEMPORARY.format("*")):
        file.unlink()


def replace_file(file: Path, data: bytes) -> None:
    """Write `data` to a temporary name, sync it, and put it in the place of `file`.

    A file that was there keeps its permissions. ResourceError when the disk is full.
    """
    fresh = file.with_name(TEMPORARY.format(file.name))
    try:
        with disk_errors(file):
            with fresh.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            if file.exists():
                shutil.copymode(file, fresh)
            fresh.replace(file)
            sync(file.parent)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
