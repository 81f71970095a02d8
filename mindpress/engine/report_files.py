"""A report as JSON and as a page, in a folder."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mindpress.checkpoint.disk import WRITING, sync, sync_tree
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
    """Write `name`.json and `name`.html, both or none, in place of older ones. ResourceError.

    They are complete beside the folder, or inside one that is there, before anything is in its
    place. What a killed run left there is deleted by the next one.
    """
    texts = {f"{name}.json": json.dumps(values, indent=2) + "\n", f"{name}.html": html}
    inside, beside = folder / f".{name}.new", folder.with_name(f".{folder.name}.new")
    fresh = inside if folder.is_dir() else beside
    try:
        _remove(inside, beside)
        fresh.mkdir(parents=True)
        for file, text in texts.items():
            (fresh / file).write_text(text, encoding="utf-8")
        sync_tree(fresh)
        if fresh == beside:
            fresh.rename(folder)
        else:
            for file in texts:
                (fresh / file).replace(folder / file)
            fresh.rmdir()
        sync(folder.parent)
    except OSError as error:
        with suppress(OSError):
            _remove(fresh)
        raise ResourceError(
            f"{folder}: the report cannot be written: {error.strerror}", hint=WRITING
        ) from None


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
