"""`manifest.json`: the size and the SHA-256 of every file of a folder that mindpress wrote.

It lies at the top of the folder: LMDeploy reads only what is below `triton_models/`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.reader import INDEX, read_json
from mindpress.checkpoint.replacing import replace_file
from mindpress.errors import InputError

NAME = "manifest.json"
FORMAT = "mindpress 1"
READ_AT_ONCE = 2**20
WORKSPACE_WEIGHTS = "triton_models/weights/"
CONFIGS = (".ini", ".yaml")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file was when it was written."""

    bytes: int
    sha256: str


def file_digest(file: Path) -> str:
    """SHA-256 of a file in hexadecimal. Peak memory: 1 MiB."""
    digest = sha256()
    with file.open("rb") as stream:
        while block := stream.read(READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def check_unchanged(file: Path, sha256: str, what: str) -> None:
    """InputError when a file that an interrupted run kept is not as it was; ResourceError when it
    cannot be read.
    """
    with disk_errors(file, "read"):
        whole = file.is_file() and file_digest(file) == sha256
    if not whole:
        raise InputError(
            f"{file}: {what} of an interrupted run are damaged",
            hint="add --overwrite to start afresh",
        )


def build_manifest(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, Entry]:
    """Entries of all files of `folder`, by their path in it.

    Files are read back from the folder, but for those whose digest is `known` since they were
    written.
    """
    known = known or {}
    names = sorted(str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file())
    return {name: _entry(folder / name, known.get(name)) for name in names if name != NAME}


def write_manifest(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write or replace the manifest of `folder`. ResourceError."""
    files = {name: asdict(entries[name]) for name in sorted(entries)}
    text = json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n"
    replace_file(folder / NAME, text.encode())


def load_manifest(folder: Path) -> dict[str, Entry] | None:
    """The entries; None where mindpress wrote none. InputError when it is damaged."""
    file = folder / NAME
    if not file.is_file():
        return None
    raw = read_json(file)
    if raw.get("format") != FORMAT:
        return None  # of another program
    try:
        return {_confined(name): _read(entry) for name, entry in raw["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file}: damaged: {error}", hint="write the folder again, or delete the manifest"
        ) from None


def check_sizes(folder: Path) -> None:
    """Refuse a folder whose weight files are not those of its manifest, by name and size.

    InputError names the first. Hashes are left to `verify`, which reads everything. Other files
    may be edited: config.json is checked against the weights, and the rest is the user's.
    """
    for name, entry in (load_manifest(folder) or {}).items():
        if not is_weight(name):
            continue
        file = folder / name
        size = _size(file)
        if size != entry.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise InputError(
                f"{file}: {found}, {NAME} says {entry.bytes} bytes",
                hint="the folder was changed or copied in part; write or copy it again",
            )


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size if file.is_file() else None
    except OSError:  # a name that no file can have
        return None


@contextmanager
def changing(folder: Path, files: Iterable[Path]) -> Iterator[None]:
    """Replace or delete `files` of a folder within: its manifest is true before and after.

    Between, and if the process is killed, they are not in it. A folder without one gets none.
    """
    entries = load_manifest(folder)
    if entries is None:
        yield
        return
    names = {file.relative_to(folder).as_posix(): file for file in files}
    kept = {name: entry for name, entry in entries.items() if name not in names}
    if kept != entries:
        write_manifest(folder, kept)
    yield
    there = {name: _entry(file) for name, file in names.items() if file.is_file()}
    write_manifest(folder, kept | there)


def _entry(file: Path, digest: str | None = None) -> Entry:
    return Entry(file.stat().st_size, digest or file_digest(file))


def _read(entry: Any) -> Entry:
    size, digest = entry["bytes"], entry["sha256"]
    if type(size) is not int or not isinstance(digest, str):
        raise TypeError(f"{entry} is no size and hash")
    return Entry(size, digest)


def _confined(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"`{name}` leaves the folder")
    return name


def is_weight(name: str) -> bool:
    """Whether a file holds weights, by its path in a model folder or workspace."""
    path = PurePosixPath(name)
    if name.startswith(WORKSPACE_WEIGHTS):
        return path.suffix not in CONFIGS
    return path.name == name and (path.suffix == ".safetensors" or name == INDEX)
