"""What the disk refuses, in words; and what must be on it before anything else happens."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mindpress.errors import ResourceError

WRITING = "free some space or raise the limit, and run it again; or choose another folder"


@contextmanager
def disk_errors(path: Path, act: Literal["read", "write"] = "write") -> Iterator[None]:
    """ResourceError in the place of an OSError: a full disk, a quota, no permission."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot {act} {path}: {error.strerror or error}",
            hint=WRITING if act == "write" else None,
        ) from None


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Every file and folder below `folder`, and itself."""
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)
