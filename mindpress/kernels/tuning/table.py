"""Tuned configurations: those of the package, then those this user's machine has found."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mindpress.checkpoint.replacing import replace_file
from mindpress.errors import MindpressError
from mindpress.kernels.tuning.key import Key

PACKAGED = Path(__file__).with_name("tuned.json")
Config = TypeVar("Config")


@dataclass(slots=True)
class Table:
    """Configurations by `str(Key)`, as the fields of the dataclass they are of.

    `file` is where new ones go, None: nowhere. `problem` says why it could not be read or written;
    what is lost then is only the time to tune again.
    """

    entries: dict[str, dict[str, Any]]
    file: Path | None = None
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    problem: str = ""

    def get(self, key: Key, kind: type[Config]) -> Config | None:
        """The configuration for `key`; None: it is not known, or was of another version."""
        fields = self.found.get(str(key)) or self.entries.get(str(key))
        if fields is None:
            return None
        try:
            return kind(**fields)
        except TypeError:
            return None

    def add(self, configs: Mapping[Key, Any]) -> None:
        """Keep new configurations and save all that were found on this machine."""
        self.found |= {str(key): asdict(config) for key, config in configs.items()}
        if self.file is None:
            return
        # Another process may have saved some meanwhile.
        self.found = _read(self.file)[0] | self.found
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.file, json.dumps(self.found, indent=1, sort_keys=True).encode())
        except (OSError, MindpressError) as error:
            self.problem = f"{self.file}: {error}"


def known_table() -> Table:
    """The table of the package and the one in the user's cache folder."""
    file = cache_file()
    found, problem = _read(file)
    return Table(_read(PACKAGED)[0], file, found, problem)


def cache_file() -> Path:
    """By the XDG base directories: what a program can make again."""
    named = os.environ.get("XDG_CACHE_HOME")
    folder = Path(named) if named and Path(named).is_absolute() else Path.home() / ".cache"
    return folder / "mindpress" / "tuned.json"


def _read(file: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Entries, and why there are none although there is a file."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, f"{file}: {error}"
    if not isinstance(read, dict) or not all(isinstance(one, dict) for one in read.values()):
        return {}, f"{file}: not a table of configurations"
    return read, ""
