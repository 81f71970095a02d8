"""An output folder that appears whole or not at all.

Work goes to a hidden folder beside the target, on the same file system; `commit` syncs it and
renames it. A lock in it keeps a second run out. POSIX only: there is no `fcntl` on Windows.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from mindpress.errors import ConfigError, LockedError, ResourceError

LOCK = ".lock"
Kind = Literal["model", "workspace", "statistics", "validation"]
# An --overwrite only ever deletes what is of the kind that is written: one of these files is in it,
# and where it is a report of ours, it says so.
MARKS: dict[Kind, tuple[str, ...]] = {
    "model": ("report.json",),
    "workspace": ("triton_models/weights/config.ini", "triton_models/weights/config.yaml"),
    "statistics": ("statistics.json",),
    "validation": ("validation.json",),
}
NAMED_IN_REPORTS = '"mindpress"'
NAMES: dict[Kind, str] = {
    "model": "quantized models",
    "workspace": "workspaces",
    "statistics": "statistics",
    "validation": "validations",
}


class StagedFolder:
    """`with StagedFolder(target, "model") as staged:` write to `staged.path`, commit.

    Without a commit the hidden folder is deleted, unless it is `resumable` and holds something:
    then it stays for the next run with the same target (which deletes it with `overwrite`).
    """

    def __init__(
        self, target: Path, kind: Kind, *, overwrite: bool = False, resumable: bool = False
    ) -> None:
        self.target = target.resolve()
        self._kind: Kind = kind
        self.path = self.target.parent / f".{self.target.name}.partial"
        self._overwrite, self._resumable = overwrite, resumable
        self._lock: IO[str] | None = None
        self._committed = False
        self._made: list[Path] = []

    def __enter__(self) -> "StagedFolder":
        check_target(self.target, self._kind, overwrite=self._overwrite)
        with disk_errors(self.target.parent):
            self._made = [place for place in self.target.parents if not place.exists()]
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
        check_target(self.target, self._kind, overwrite=self._overwrite)
        with disk_errors(self.target):
            for file in self.path.rglob("*"):
                if file.is_file():
                    _sync(file)
            self._replace()
            (self.target / LOCK).unlink()
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
        if not self._committed and not (self._resumable and self._begun()):
            shutil.rmtree(self.path, ignore_errors=True)
            for place in self._made:
                with suppress(OSError):
                    place.rmdir()

    def _begun(self) -> bool:
        return self.path.is_dir() and any(entry.name != LOCK for entry in self.path.iterdir())

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


def check_target(target: Path, kind: Kind, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, or whose place cannot be written.

    With `overwrite` it may hold an earlier output of the same kind.

    Leaves nothing behind: whether a place can be written is tried with a file without a name.
    """
    with disk_errors(target):
        place = _nearest(target)
        if not place.is_dir():
            raise ConfigError(f"{place}: is a file", hint="name a new folder")
        if target.is_dir() and any(target.iterdir()):
            _check_occupied(target, kind, overwrite=overwrite)
        parent = _nearest(target.absolute().parent)
        try:
            tempfile.TemporaryFile(dir=parent).close()
        except OSError as error:
            raise ResourceError(
                f"{parent}: no permission to write ({error.strerror})", hint="choose another folder"
            ) from None


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


def _check_occupied(target: Path, kind: Kind, *, overwrite: bool) -> None:
    if not overwrite:
        raise ConfigError(
            f"{target}: the folder is not empty",
            hint="name a new folder, or add --overwrite to replace it",
        )
    if not _is_ours(target, kind):
        raise ConfigError(
            f"{target}: holds something else than mindpress's {NAMES[kind]}; it is not replaced",
            hint="name a new folder",
        )


def _is_ours(target: Path, kind: Kind) -> bool:
    found = [target / name for name in MARKS[kind] if (target / name).is_file()]
    if kind == "workspace":
        return bool(found)
    return any(NAMED_IN_REPORTS in file.read_text(errors="replace") for file in found)


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
