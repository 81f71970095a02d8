"""An output folder that appears whole or not at all.

Work goes to a hidden folder beside the target, on the same file system; `commit` syncs it and
renames it. A lock in it keeps a second run out. POSIX only: there is no `fcntl` on Windows.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
        self.target = target.resolve()
        self.path = self.target.parent / f".{self.target.name}.partial"
        self._overwrite, self._resumable = overwrite, resumable
        self._lock: IO[str] | None = None
        self._committed = False

    def __enter__(self) -> "StagedFolder":
        check_target(self.target, overwrite=self._overwrite)
        with disk_errors(self.target.parent):
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if not self._resumable or self._overwrite:
                self.clear()
        return self

    def clear(self) -> None:
        """Delete what an earlier run left in the hidden folder."""
        for entry in self.path.iterdir():
            if entry.name != LOCK:
                _remove(entry)

    def commit(self) -> None:
        """Sync every file, then put the folder in its place."""
        check_target(self.target, overwrite=self._overwrite)
        with disk_errors(self.target):
            for file in self.path.rglob("*"):
                if file.is_file():
                    _sync(file)
            (self.path / LOCK).unlink()
            self._replace()
            self._committed = True
            _sync(self.target.parent)

    def _replace(self) -> None:
        old = self.target.parent / f".{self.target.name}.old"
        if old.exists():
            _remove(old)
        if self.target.exists():
            self.target.rename(old)
        self.path.rename(self.target)
        if old.exists():
            _remove(old)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock:
            self._lock.close()
        if not self._committed and not self._resumable:
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


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """ResourceError in the place of an OSError: a full disk, a quota, no permission."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free some space, or choose another folder",
        ) from None


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, or whose place cannot be written.

    Writes nothing.
    """
    with disk_errors(target):
        place = _nearest(target)
        if not place.is_dir():
            raise ConfigError(f"{place}: is a file", hint="name a new folder")
        if target.is_dir() and any(target.iterdir()):
            _check_occupied(target, overwrite=overwrite)
        parent = _nearest(target.absolute().parent)
        if not os.access(parent, os.W_OK | os.X_OK) or os.statvfs(parent).f_flag & os.ST_RDONLY:
            raise ResourceError(f"{parent}: no permission to write", hint="choose another folder")


def check_not_inside(target: Path, source: Path) -> None:
    """Refuse an output folder that is, or holds, the model it is made from."""
    where, model = target.resolve(), source.resolve()
    if where == model or where in model.parents:
        raise ConfigError(f"{target}: holds the model that is read", hint="name a new folder")


def _nearest(path: Path) -> Path:
    """`path`, or the first of its parents that exists."""
    whole = path.absolute()
    return next(place for place in (whole, *whole.parents) if place.exists())


def check_space(target: Path, need: int) -> None:
    """Refuse to start when the file system of `target` has less than `need` bytes free."""
    place = _nearest(target.absolute().parent)
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
