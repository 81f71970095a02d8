"""An output folder that appears whole or not at all.

Work goes to a hidden folder beside the target, on the same file system:

    .NAME.partial/          what a run keeps for the next one, if it is killed: journal, spilled
                            states
    .NAME.partial/output    what is to become NAME
    .NAME.partial/old       what NAME was, while an --overwrite puts the new one in its place
    .NAME.lock              held as long as the run lives

`commit` writes the manifest, syncs everything and renames. A run that was killed between its two
renames is finished by the next one on the same target.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

from mindpress.checkpoint.disk import disk_errors, sync, sync_tree
from mindpress.checkpoint.locking import locked
from mindpress.checkpoint.manifest import build_manifest, write_manifest
from mindpress.checkpoint.replacing import remove_unfinished
from mindpress.errors import ConfigError, InputError, ResourceError

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
State = TypeVar("State")


class StagedFolder:
    """`with StagedFolder(target, "model") as staged:` write to `staged.path`, commit.

    `staged.aside` holds what is not to appear. Without a commit what they hold stays for the next
    run with the same target, and nothing else does.
    """

    def __init__(self, target: Path, kind: Kind, *, overwrite: bool = False) -> None:
        self.target = target.resolve()
        self._kind: Kind = kind
        self.aside = staged_place(self.target)
        self.path, self._old = self.aside / "output", self.aside / "old"
        self._overwrite = overwrite
        self._lock = ExitStack()
        self._committed = False
        self._made: list[Path] = []

    def __enter__(self) -> "StagedFolder":
        _check_place(self.target)
        parent = self.target.parent
        with disk_errors(parent):
            self._made = [place for place in self.target.parents if not place.exists()]
            parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            undo.callback(self._remove_made)
            undo.enter_context(locked(self.target))
            undo.callback(self._leave)
            self._finish_earlier()
            check_target(self.target, self._kind, overwrite=self._overwrite)
            with disk_errors(self.aside):
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock = undo.pop_all()
        return self

    def resumed(self, resume: Callable[[], State]) -> State:
        """What `resume` makes of an interrupted run. One that it refuses, because it is of another
        request or damaged, is deleted first where everything may be overwritten.
        """
        try:
            return resume()
        except (ConfigError, InputError):
            if not self._overwrite:
                raise
            with disk_errors(self.aside):
                self.clear()
            return resume()

    def clear(self) -> None:
        """Delete what an earlier run left, output and journal."""
        if self.aside.exists():
            shutil.rmtree(self.aside)
        self.path.mkdir(parents=True)

    def clear_output(self) -> None:
        """Delete what an earlier run wrote of which no journal tells."""
        shutil.rmtree(self.path)
        self.path.mkdir()

    def commit(self, known: Mapping[str, str] | None = None) -> None:
        """Write the manifest, sync every file, then put the folder in its place.

        `known` are the SHA-256 of files, by their path in the folder, that were hashed while they
        were written; others are read back.
        """
        check_target(self.target, self._kind, overwrite=self._overwrite)
        with disk_errors(self.target):
            remove_unfinished(self.path)
            write_manifest(self.path, build_manifest(self.path, known))
            sync_tree(self.path)
            self._replace()
            self._committed = True
            sync(self.target.parent)
        # The output is there: should this fail, the next run on it cleans up.
        shutil.rmtree(self.aside, ignore_errors=True)

    def _replace(self) -> None:
        replaces = self.target.exists()
        if replaces:
            self.target.rename(self._old)
        try:
            self.path.rename(self.target)
        except OSError:
            if replaces:
                self._old.rename(self.target)
            raise

    def _finish_earlier(self) -> None:
        """Put in its place, and clean up behind, what a killed run was about to."""
        with disk_errors(self.target):
            if self._old.exists() and self.path.exists() and not self.target.exists():
                self.path.rename(self.target)
                sync(self.target.parent)
            if self.aside.exists() and not self.path.exists():
                shutil.rmtree(self.aside)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def _leave(self) -> None:
        if not self._committed and not self._begun():
            shutil.rmtree(self.aside, ignore_errors=True)

    def _begun(self) -> bool:
        there = {*self.aside.iterdir(), *self.path.iterdir()} if self.path.is_dir() else set()
        return bool(there - {self.path})

    def _remove_made(self) -> None:
        """The folders above the target, when they hold nothing."""
        for place in self._made:
            with suppress(OSError):
                place.rmdir()


def staged_place(target: Path) -> Path:
    """Where an unfinished `target` is."""
    return target.parent / f".{target.name}.partial"


def check_target(target: Path, kind: Kind, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, or whose place cannot be written.

    With `overwrite` it may hold an earlier output of the same kind.

    Leaves nothing behind: whether a place can be written is tried with a file without a name.
    """
    _check_place(target)
    with disk_errors(target):
        if target.is_dir() and any(target.iterdir()):
            _check_occupied(target, kind, overwrite=overwrite)


def _check_place(target: Path) -> None:
    with disk_errors(target):
        place = _nearest(target)
        if not place.is_dir():
            raise ConfigError(f"{place}: is a file", hint="name a new folder")
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
    """Refuse to start when the file system of `target` has less than `need` bytes free.

    What an interrupted run has written of it counts as free.
    """
    place = _nearest(target.absolute().parent)
    staged = staged_place(target.resolve())
    with disk_errors(place):
        free = shutil.disk_usage(place).free + _bytes_below(staged)
    if free < need:
        raise ResourceError(
            f"{place}: {need / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} MiB are free",
            hint="free some space, or choose another folder",
        )


def _bytes_below(folder: Path) -> int:
    """Of files that another run may be deleting: then of those that were still there."""
    total = 0
    with suppress(FileNotFoundError):  # of a folder
        for file in folder.rglob("*"):
            with suppress(FileNotFoundError):
                total += file.stat().st_size if file.is_file() else 0
    return total


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
