"""Whether every file of a folder is the one that was written, or that the Hub sent."""

import re
from collections.abc import Mapping
from hashlib import sha1
from pathlib import Path

from mindpress.checkpoint.manifest import NAME, Entry, file_digest, is_weight, load_manifest
from mindpress.checkpoint.reader import NAMED_IN_ERRORS
from mindpress.errors import InputError
from mindpress.events import Advanced, Listener, Started, ignore

# The Hub's cache names large files by their SHA-256 and small ones as git does.
SHA256, GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def verify(folder: Path, listener: Listener = ignore) -> int:
    """Hash every file that a hash is known of, from `manifest.json` or from the names that the
    Hub's cache gives its files; how many there are.

    InputError that names the files that differ, or says that nothing is known. Files of no known
    hash are left out. Peak memory: 1 MiB, and the small files of a snapshot.
    """
    known = _known(folder)
    if not known:
        raise InputError(
            f"{folder}: no {NAME} of mindpress, and no snapshot of the Hub's cache: nothing is"
            " known that its files could be compared with",
            hint="check a folder that mindpress wrote, or a model by its Hub id",
        )
    _compare(folder, known, listener)
    return len(known)


def verify_weights(folder: Path, listener: Listener = ignore) -> None:
    """The same for files of weights alone, where a hash is known of any: a flipped byte in them is
    a number like any other. InputError names the files that differ.
    """
    known = {name: expected for name, expected in _known(folder).items() if is_weight(name)}
    if known:
        _compare(folder, known, listener)


def _known(folder: Path) -> dict[str, Entry | str]:
    return {**_of_the_hub(folder), **(load_manifest(folder) or {})}


def _compare(folder: Path, known: Mapping[str, Entry | str], listener: Listener) -> None:
    listener(Started("verify", len(known), "file"))
    wrong: list[str] = []
    for done, (name, expected) in enumerate(known.items(), 1):
        fault = _fault(folder / name, expected)
        if fault:
            wrong.append(f"{name} ({fault})")
        listener(Advanced(done))
    if wrong:
        shown = ", ".join(wrong[:NAMED_IN_ERRORS]) + (" ..." if wrong[NAMED_IN_ERRORS:] else "")
        raise InputError(
            f"{folder}: not as they were written ({len(wrong)} of {len(known)} files): {shown}",
            hint=f"write or download the folder again; if you changed them, delete {NAME}",
        )


def _fault(file: Path, expected: Entry | str) -> str | None:
    """What is wrong with a file: an entry of a manifest, or the name of a blob, says how it was."""
    try:
        if not file.is_file():
            return "missing"
        if isinstance(expected, str):
            found = file_digest(file) if SHA256.fullmatch(expected) else _git_digest(file)
            return None if found == expected else "changed"
        size = file.stat().st_size
        if size != expected.bytes:
            return f"{size} bytes, not {expected.bytes}"
        return None if file_digest(file) == expected.sha256 else "changed"
    except OSError as error:
        return error.strerror or str(error)


def _of_the_hub(folder: Path) -> dict[str, str]:
    """The files of a snapshot (links into `blobs/`) and the names of their blobs."""
    known: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        if not (file.is_symlink() and file.exists()):  # not a link to itself, or to nothing
            continue
        blob = file.resolve()
        named = SHA256.fullmatch(blob.name) or GIT.fullmatch(blob.name)
        if blob.parent.name == "blobs" and named:
            known[file.name] = blob.name
    return known


def _git_digest(file: Path) -> str:
    data = file.read_bytes()
    header = f"blob {len(data)}\0".encode()
    return sha1(header + data, usedforsecurity=False).hexdigest()
