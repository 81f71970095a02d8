"""An output folder that appears whole or not at all.

Work goes to a hidden folder beside the target, on the same file system; `commit` syncs it and
renames it. A lock in it keeps a second run out.
"""

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO

from mindpress.errors import ConfigError, LockedError, ResourceError

LOCK = ".lock"
# An --overwrite only ever deletes a folder with one of these in it.
OURS = ("config.json", "triton_models", "report.json", "validation.json", "statistics.json")


class StagedFolder:
    """`with StagedFolder(target, overwrite=False) as staged:` write to `staged.path`, commit.

    Without a commit the hidden folder is deleted, unless `resumable`: then it stays for the next
    run with the same target.
    """

    def __init__(self, target: Path, *, overwrite: bool = False, resumable: bool = False) -> None:
        self.target = target.absolute()
        self.path = self.target.parent / f".{self.target.name}.partial"
        self._overwrite, self._resumable = overwrite, resumable
        self._lock: IO[str] | None = None

    def __enter__(self) -> "StagedFolder":
        check_target(self.target, overwrite=self._overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if not self._resumable or self._overwrite:
                self.clear()
        except OSError as error:
            raise ResourceError(
                f"cannot write to {self.target.parent}: {error.strerror}",
                hint="choose another folder",
            ) from None
        return self

    def clear(self) -> None:
        """Delete what an earlier run left in the hidden folder."""
        for entry in self.path.iterdir():
            if entry.name != LOCK:
                _remove(entry)

    def commit(self) -> None:
        """Sync every file, then put the folder in its place."""
        for file in self.path.rglob("*"):
            if file.is_file():
                _sync(file)
        (self.path / LOCK).unlink()
        old = self.target.parent / f".{self.target.name}.old"
        if old.exists():
            _remove(old)
        if self.target.exists():
            self.target.rename(old)
        self.path.rename(self.target)
        _sync(self.target.parent)
        if old.exists():
            _remove(old)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        finished = not (self.path / LOCK).exists()
        if self._lock:
            self._lock.close()
        if not finished and not self._resumable:
            shutil.rmtree(self.path, ignore_errors=True)

    def _take_lock(self) -> None:
        self._lock = (self.path / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise LockedError(
                f"another run is writing {self.target}", hint="wait for it, or stop it"
            ) from None


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, or whose place cannot be written.

    Writes nothing.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: is a file", hint="name a new folder")
    if target.is_dir() and any(target.iterdir()):
        _check_occupied(target, overwrite=overwrite)
    place = next(folder for folder in target.absolute().parents if folder.exists())
    if not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_flag & os.ST_RDONLY:
        raise ResourceError(f"{place}: no permission to write", hint="choose another folder")


def check_space(target: Path, need: int) -> None:
    """Refuse to start when the file system of `target` has less than `need` bytes free."""
    place = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(place).free
    if free < need:
        raise ResourceError(
            f"{place}: {need / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free",
            hint="free some space, or choose another folder",
        )


def _check_occupied(target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        raise ConfigError(
            f"{target}: the folder is not empty",
            hint="name a new folder, or add --overwrite to replace it",
        )
    if not any((target / name).exists() for name in OURS):
        raise ConfigError(
            f"{target}: does not look like a model folder or a workspace; it is not replaced",
            hint="name a new folder",
        )


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
