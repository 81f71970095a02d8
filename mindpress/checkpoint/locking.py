"""One run at a time writes a folder. POSIX only: there is no `fcntl` on Windows."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindpress.checkpoint.disk import disk_errors
from mindpress.errors import LockedError


def lock_file(target: Path) -> Path:
    """Lies beside `target`, so that it stays where it is while the folder is replaced."""
    return target.parent / f".{target.name}.lock"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other runs off `target`, whose parent exists. LockedError when another has it.

    The system lets go of the lock when a process ends, however it ends; the file that a killed
    run leaves is the next one's.
    """
    file = lock_file(target)
    with disk_errors(file):
        handle = _taken(file, target)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        os.close(handle)


def _taken(file: Path, target: Path) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise LockedError(
                f"another run is writing {target}", hint="wait for it, or stop it"
            ) from None
        except OSError:
            os.close(handle)
            raise
        if _is_still(handle, file):
            return handle
        os.close(handle)  # its holder has just deleted it: others would lock another file


def _is_still(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
