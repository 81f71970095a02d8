"""Run every command twice, each in a process of its own and into another folder; compare hashes.

    python -m tests.stress.identical --save

Nothing that differs between two days on one machine may show: time, memory, names of folders.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.stress.commands import COMMANDS, Inputs, contents, make_inputs
from tests.stress.saved import save


def mindpress(arguments: list[str]) -> None:
    """The command as a user starts it."""
    call = [sys.executable, "-m", "mindpress", *arguments, "--quiet"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr}")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()}


def differing(name: str, inputs: Inputs, room: Path) -> tuple[int, list[str]]:
    """How many files the command writes, and those that differ between two runs of it."""
    found = []
    for run in ("first", "second"):
        target = room / f"{name.replace(' ', '-')}-{run}"
        mindpress(COMMANDS[name](inputs, target))
        found.append(hashes(target))
    one, other = found
    return len(one), sorted(n for n in {*one, *other} if one.get(n) != other.get(n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", action="append", choices=COMMANDS, help="some of them")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        room = Path(place)
        inputs = make_inputs(room, mindpress)
        found = {n: differing(n, inputs, room) for n in given.command or COMMANDS}
    figures = {
        "files": sum(count for count, _ in found.values()),
        "differing": {name: wrong for name, (_, wrong) in found.items() if wrong},
        "commands": {name: count for name, (count, _) in found.items()},
    }
    print(json.dumps(figures, indent=2))  # noqa: T201
    if given.save:
        save("identical", figures)
    sys.exit(bool(figures["differing"]))


if __name__ == "__main__":
    main()
