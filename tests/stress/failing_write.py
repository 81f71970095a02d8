"""Let every single call of a small run fail that changes the disk, one run for each.

    python -m tests.stress.failing_write --save

The call returns an error (no space, quota, input/output, read-only by turns); at every tenth the
disk stays full from there on. Then: the exit code is 4 (or 0, where the run can do without the
call), nothing unfinished stands in the target's place, and the same command, run again, ends with
the bytes of an undisturbed run and leaves nothing beside them.
"""

import argparse
import errno
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stress.commands import COMMANDS, Inputs, contents, make_inputs, temporaries
from tests.stress.disk_calls import Fault, load
from tests.stress.forked import Ended, ForkedCommands
from tests.stress.saved import save

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
FULL_EVERY = 10
DONE, NO_RESOURCE = 0, 4


@dataclass
class Tally:
    """Runs in which a call failed, how they ended, and what was wrong."""

    calls: int = 0
    injected: int = 0
    by_exit_code: dict[int, int] = field(default_factory=dict)
    accepted_partial_outputs: int = 0
    faults: list[str] = field(default_factory=list)


class FailingWrites:
    """Trials of one command, against the output of an undisturbed run."""

    def __init__(self, name: str, inputs: Inputs, forked: ForkedCommands, room: Path) -> None:
        self.name, self.forked = name, forked
        self.room = room / name.replace(" ", "-")
        self.target = self.room / "out"
        self.arguments = COMMANDS[name](inputs, self.target)
        # Counted as failing runs count: without deletions, which do not fail.
        whole = self._run(Fault(0, "f"))
        if whole.code:
            raise SystemExit(f"{name}: {whole.output}")
        self.expected = contents(self.target)
        self.tally = Tally(calls=whole.calls)

    def trial(self, number: int) -> None:
        """Let call `number` fail, then run the command again."""
        full = number % FULL_EVERY == 0
        fault = Fault(number, "d" if full else "f", errno.ENOSPC if full else _error(number))
        ended = self._run(fault)
        self.tally.injected += ended.calls >= number
        counts = self.tally.by_exit_code
        counts[ended.code] = counts.get(ended.code, 0) + 1
        faults = [*self._of_failed(ended), *self._of_rerun()]
        said = " ".join(ended.output.split())[-300:]
        self.tally.faults += [f"{self.name}: {fault}: {what}: {said}" for what in faults]

    def _run(self, fault: Fault) -> Ended:
        shutil.rmtree(self.room, ignore_errors=True)
        self.room.mkdir()
        return self.forked.run(self.arguments, self.room, fault)

    def _of_failed(self, ended: Ended) -> list[str]:
        faults = []
        if ended.code not in (DONE, NO_RESOURCE):
            faults.append(f"exit code {ended.code}")
        if "Traceback" in ended.output:
            faults.append("traceback")
        if self.target.exists() and contents(self.target) != self.expected:
            self.tally.accepted_partial_outputs += 1
            faults.append("a partial output stands in the target's place")
        if ended.code == DONE and not self.target.exists():
            faults.append("done, without an output")
        return faults

    def _of_rerun(self) -> list[str]:
        there = self.target.exists()
        again = self.forked.run(self.arguments, self.room)
        refused = there and "is not empty" in again.output
        if again.code != DONE and not refused:
            return [f"the next run ends with {again.code}: {again.output[-300:]}"]
        faults = [] if contents(self.target) == self.expected else ["other bytes after a rerun"]
        left = temporaries(self.target)
        return [*faults, f"{left} are left"] if left else faults


def _error(number: int) -> int:
    return ERRORS[number % len(ERRORS)]


def run(names: list[str], every: int, first: int, folder: Path) -> Iterator[tuple[str, Tally]]:
    """Every call, or one of so many, of these commands."""
    forked = ForkedCommands(folder)
    inputs = make_inputs(folder, lambda arguments: forked.must(arguments, folder))
    room = folder / "rooms"
    room.mkdir()
    for name in names:
        trials = FailingWrites(name, inputs, forked, room)
        for number in range(first, trials.tally.calls + 1, every):
            trials.trial(number)
        print(f"{name}: {trials.tally}", flush=True)  # noqa: T201
        yield name, trials.tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", action="append", choices=COMMANDS, help="some of them")
    parser.add_argument("--every", type=int, default=1, help="one call of so many")
    parser.add_argument("--first", type=int, default=1, help="the first call that fails")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    load()
    folder = Path(tempfile.mkdtemp(prefix="mindpress-writes-"))
    found: dict[str, Tally] = {}
    try:
        for name, tally in run(given.command or list(COMMANDS), given.every, given.first, folder):
            found[name] = tally
            if given.save:  # also when the rest is never measured
                save("failing_write", figures(found))
    finally:
        shutil.rmtree(folder)
    print(json.dumps(figures(found), indent=2))  # noqa: T201
    sys.exit(any(tally.faults for tally in found.values()))


def figures(found: dict[str, Tally]) -> dict[str, Any]:
    """What is saved."""
    return {
        "calls_that_failed": sum(tally.injected for tally in found.values()),
        "accepted_partial_outputs": sum(t.accepted_partial_outputs for t in found.values()),
        "faults": [fault for tally in found.values() for fault in tally.faults],
        "commands": {
            name: {"calls": tally.calls, "failed": tally.injected, "exit codes": tally.by_exit_code}
            for name, tally in found.items()
        },
    }


if __name__ == "__main__":
    main()
