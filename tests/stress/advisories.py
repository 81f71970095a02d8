"""Compare every installed package with a copy of PyPA's advisory database, without a network.

    git clone https://github.com/pypa/advisory-database
    python -m tests.stress.advisories advisory-database --save

Where there is a network `pip-audit` does the same with what is known today.
Format: https://ossf.github.io/osv-schema/, section "affected[].ranges[]".
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from tests.stress.saved import save

FIRST = Version("0")


def installed() -> dict[str, Version]:
    """Normalized names, but for this project."""
    found = {_normalized(d.metadata["Name"]): Version(d.version) for d in distributions()}
    return {name: version for name, version in found.items() if name != "mindpress"}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class Database:
    """A clone of the database, with a work tree or bare."""

    def __init__(self, clone: Path) -> None:
        self._clone = clone
        listed = self._git("ls-tree", "-r", "--name-only", "HEAD", "vulns").splitlines()
        self.files = [file for file in listed if file.endswith(".yaml")]

    @property
    def date(self) -> str:
        """Of the newest change."""
        return self._git("log", "-1", "--format=%cs").strip()

    def of(self, package: str) -> Iterator[dict[str, Any]]:
        """Advisories of a package that were not withdrawn."""
        for file in self.files:
            if _normalized(file.split("/")[1]) == package:
                advisory = yaml.safe_load(self._git("show", f"HEAD:{file}"))
                if not advisory.get("withdrawn"):
                    yield advisory

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self._clone), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def concerns(advisory: Mapping[str, Any], version: Version) -> bool:
    """Whether a version is among those affected."""
    return any(
        str(version) in affected.get("versions", ())
        or any(_within(found["events"], version) for found in affected.get("ranges", ())
               if found["type"] == "ECOSYSTEM")
        for affected in advisory["affected"]
    )  # fmt: skip


def _within(events: list[dict[str, str]], version: Version) -> bool:
    """Events of a range are in order: introduced, fixed, introduced ..."""
    inside = False
    for event in events:
        if "introduced" in event:
            begun = event["introduced"]
            inside |= version >= (FIRST if begun == "0" else Version(begun))
        elif "fixed" in event:
            inside &= version < Version(event["fixed"])
    return inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path, help="a clone of pypa/advisory-database")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    database, packages = Database(given.database), installed()
    known = {name: list(database.of(name)) for name in packages}
    found = {
        "database": database.date,
        "advisories": len(database.files),
        "packages": {name: str(version) for name, version in sorted(packages.items())},
        "of_these_packages": sum(map(len, known.values())),
        "concern_an_installed_version": [
            f"{name} {packages[name]}: {advisory['id']}"
            for name, advisories in known.items()
            for advisory in advisories
            if concerns(advisory, packages[name])
        ],
    }
    print(json.dumps(found, indent=2))  # noqa: T201
    if given.save:
        save("advisories", found)
    sys.exit(bool(found["concern_an_installed_version"]))


if __name__ == "__main__":
    main()
