"""A report as JSON and as a page, in a folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mindpress.checkpoint.replacing import replace_file
from mindpress.errors import ConfigError, ResourceError


def plain(report: Any) -> dict[str, Any]:
    """The fields of a dataclass in JSON's types, all the way down."""
    return json.loads(json.dumps(asdict(report), default=str))


def check_output(folder: Path) -> None:
    """Refuse a place where the report cannot be written. Leaves nothing behind."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder}: is a file", hint="name a folder")
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ResourceError(
            f"--output {folder}: {place} cannot be written: {error.strerror}",
            hint="name another folder with --output",
        ) from None


def save_report(folder: Path, values: Mapping[str, Any], html: str, name: str) -> None:
    """Write `name`.json and `name`.html, each whole or not at all, in place of older ones."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{name}.json", (json.dumps(values, indent=2) + "\n").encode())
        replace_file(folder / f"{name}.html", html.encode())
    except OSError as error:
        raise ResourceError(f"{folder}: the report cannot be written: {error.strerror}") from None
