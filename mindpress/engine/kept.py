"""Figures of an evaluation, kept on disk as they come, so that an interrupted one goes on."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.journal import Journal
from mindpress.checkpoint.locking import locked
from mindpress.errors import ConfigError, InputError, NumericError, ResourceError
from mindpress.events import Listener, Note
from mindpress.sources.folder import ModelFolder
from mindpress.sources.source import ModelSource
from mindpress.sources.workspace import Workspace

# A save waits for the disk; so much work is lost at most, and a save costs little beside it.
SECONDS_BETWEEN_SAVES = 2.0


def _nothing() -> None:
    """For values that are kept in memory only."""


class Kept:
    """Values by name, in JSON's types. Whoever asks finds what an earlier run has put there.

    `seconds` is how long earlier runs took.
    """

    def __init__(
        self,
        values: dict[str, Any] | None = None,
        changed: Callable[[], None] = _nothing,
        prefix: str = "",
    ) -> None:
        self._values = {} if values is None else values
        self._changed, self._prefix = changed, prefix
        self.seconds = float(self._values.get("seconds", 0.0))

    def get(self, name: str) -> Any:
        """What was kept, or None."""
        return self._values.get(self._prefix + name)

    def put(self, name: str, value: Any) -> None:
        """Keep it in the place of what was there."""
        self._values[self._prefix + name] = value
        self._changed()

    def below(self, name: str) -> "Kept":
        """The same store, for values whose names begin with this."""
        return Kept(self._values, self._changed, f"{self._prefix}{name}: ")


@contextmanager
def kept_beside(
    output: Path, name: str, fingerprint: str, listener: Listener, *, overwrite: bool = False
) -> Iterator[Kept]:
    """What an interrupted run with this `fingerprint` has kept, and a place to keep more in.

    It lies in a hidden folder beside `output`, which is deleted when the block inside has ended
    well, and locked meanwhile: LockedError while another run holds it. ConfigError when another
    request was interrupted, unless `overwrite` is to begin afresh. What a NumericError ends is not
    kept: another setting is needed.
    """
    whole = output.resolve()
    folder = whole.parent / f".{whole.name}.{name}"
    with disk_errors(folder):
        whole.parent.mkdir(parents=True, exist_ok=True)
    with locked(whole):
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        saver = _Saver(Journal(folder, fingerprint), overwrite=overwrite)
        if saver.holds_figures:
            listener(Note("going on with what an interrupted run has measured"))
        try:
            yield Kept(saver.values, saver.changed)
        except NumericError:
            _delete(folder)
            raise
        except BaseException:
            if saver.holds_figures:
                with suppress(ResourceError):  # what ended the run is worth more words
                    saver.save()
            else:
                _delete(folder)
            raise
        _delete(folder)


def _loaded(journal: Journal, *, overwrite: bool) -> dict[str, Any]:
    """What is in the journal; nothing where it is another's and may be overwritten."""
    try:
        return journal.load() or {}
    except (ConfigError, InputError):
        if not overwrite:
            raise
        return {}


def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


class _Saver:
    """Saves values that change, not too often."""

    def __init__(self, journal: Journal, *, overwrite: bool) -> None:
        self._journal = journal
        self.values = _loaded(journal, overwrite=overwrite)
        self._earlier = float(self.values.get("seconds", 0.0))
        self._begun = time.monotonic()
        self._saved = -SECONDS_BETWEEN_SAVES

    @property
    def holds_figures(self) -> bool:
        """Whether anything was measured."""
        return bool(self.values.keys() - {"seconds"})

    def changed(self) -> None:
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        self.values["seconds"] = self._earlier + time.monotonic() - self._begun
        self._journal.save(self.values)
        self._saved = time.monotonic()


def described(source: ModelSource) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the files that make a model what it is."""
    files: list[Path] = []
    if isinstance(source, Workspace):
        files = [file for file in source.weights.iterdir() if file.is_file()]
    elif isinstance(source, ModelFolder):
        shards = {info.file for info in source.checkpoint.tensors.values()}
        files = [source.folder / "config.json", *shards]
    found = [(file.name, file.stat()) for file in sorted(files)]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in found]
