"""Kill commands again and again, start them again, and compare every byte in the end.

    python -m tests.stress.kill --kills 240 --save

Half of the kills come after a random time, half at a random call that changes the disk: before it,
after it, or within a write. Every other trial replaces an older output with --overwrite. A trial
ends when the command does; its output must be that of a run nobody stopped, and nothing else may
lie beside it.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mindpress.kernels.native.build import compiler
from tests.stress.commands import COMMANDS, EVALUATIONS, Inputs, contents, make_inputs, temporaries
from tests.stress.disk_calls import Fault, load
from tests.stress.forked import Ended, ForkedCommands
from tests.stress.saved import save

MODES = "bah"
REFUSED = (
    2  # by a run that was killed when its output was in its place: the next may not replace it
)
LATEST = 1.1  # of the time an uninterrupted run takes


@dataclass
class Tally:
    """What was found. `late` kills came when the process had already ended."""

    trials: int = 0
    kills_by_time: int = 0
    kills_at_calls: int = 0
    late: int = 0
    differing_bytes: int = 0
    stale_temporaries: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.kills_by_time + self.kills_at_calls


class Killer:
    """Trials of one command, against the output and the measures of an uninterrupted run."""

    def __init__(self, name: str, inputs: Inputs, forked: ForkedCommands, room: Path) -> None:
        self.name, self.inputs, self.forked = name, inputs, forked
        self.room = room / name.replace(" ", "-")
        self.target = self.room / "out"
        self.whole = self._run(self._fresh())
        if self.whole.code:
            raise SystemExit(f"{name}: {self.whole.output}")
        self.expected = contents(self.target)

    def trial(self, chance: random.Random, most: int, tally: Tally) -> None:
        """Kill a fresh command up to `most` times, then let it end."""
        older = chance.random() < 0.5
        arguments = self._fresh(older=older)
        tally.trials += 1
        history = []
        for _ in range(most):
            ended, how = self._killed(arguments, chance)
            history.append(how)
            if ended.code != -9:
                tally.late += 1
                self._check_end(ended, history, tally)
                break
            self._count(how, tally)
        else:
            self._check_end(self._run(arguments), history, tally)
        self._check_files(history, tally)

    def _fresh(self, *, older: bool = False) -> list[str]:
        shutil.rmtree(self.room, ignore_errors=True)
        self.room.mkdir()
        arguments = COMMANDS[self.name](self.inputs, self.target)
        if not older:
            return arguments
        for name, data in self.expected.items():
            file = self.target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            # Longer than what replaces it, so that an older file is seen wherever it is left.
            file.write_bytes(data + b"\n" if name.endswith((".html", ".md", "LICENSE")) else data)
        if not self.expected.keys() & set(EVALUATIONS):  # their folder stays, its files change
            (self.target / "older").touch()
        return [*arguments, "--overwrite"]

    def _run(self, arguments: list[str], **stop: object) -> Ended:
        return self.forked.run(arguments, self.room, **stop)  # pyright: ignore

    def _killed(self, arguments: list[str], chance: random.Random) -> tuple[Ended, str]:
        if chance.random() < 0.5 or not self.whole.calls:
            after = chance.uniform(0, LATEST * self.whole.seconds)
            return self._run(arguments, kill_after=after), f"after {after:.3f} s"
        mode, number = chance.choice(MODES), chance.randint(1, self.whole.calls)
        return self._run(arguments, fault=Fault(number, mode)), f"at call {number} ({mode})"

    def _count(self, how: str, tally: Tally) -> None:
        if how.startswith("at"):
            tally.kills_at_calls += 1
        else:
            tally.kills_by_time += 1

    def _check_end(self, ended: Ended, history: list[str], tally: Tally) -> None:
        finished = ended.code == 0 or (ended.code == REFUSED and "is not empty" in ended.output)
        if not finished or "Traceback" in ended.output:
            said = " ".join(ended.output.split())[-400:]
            tally.faults.append(f"{self.name}: {history}: exit code {ended.code}: {said}")

    def _check_files(self, history: list[str], tally: Tally) -> None:
        found, left = contents(self.target), temporaries(self.target)
        wrong = [n for n in {*found, *self.expected} if found.get(n) != self.expected.get(n)]
        tally.differing_bytes += sum(
            _differing(found.get(n, b""), self.expected.get(n, b"")) for n in wrong
        )
        tally.stale_temporaries += len(left)
        if wrong or left:
            tally.faults.append(f"{self.name}: {history}: differing {wrong}, left {left}")


def _differing(one: bytes, other: bytes) -> int:
    return sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other)) or 1


def run(kills: int, seed: int, names: list[str], folder: Path) -> dict[str, Tally]:
    """At least `kills` kills, about as many of each command."""
    forked, chance = ForkedCommands(folder), random.Random(seed)
    inputs = make_inputs(folder, lambda arguments: forked.must(arguments, folder))
    room = folder / "rooms"
    room.mkdir()
    found: dict[str, Tally] = {}
    for name in names:
        killer, tally = Killer(name, inputs, forked, room), Tally()
        while tally.kills * len(names) < kills:
            killer.trial(chance, chance.randint(1, 4), tally)
        found[name] = tally
        print(f"{name}: {tally}", flush=True)  # noqa: T201
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=COMMANDS, help="all of them")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    if compiler():
        load()
    folder = Path(tempfile.mkdtemp(prefix="mindpress-kill-"))
    try:
        found = run(given.kills, given.seed, given.command or list(COMMANDS), folder)
    finally:
        shutil.rmtree(folder)
    figures = {
        "kills": sum(tally.kills for tally in found.values()),
        "trials": sum(tally.trials for tally in found.values()),
        "differing_bytes": sum(tally.differing_bytes for tally in found.values()),
        "stale_temporaries": sum(tally.stale_temporaries for tally in found.values()),
        "faults": [fault for tally in found.values() for fault in tally.faults],
        "commands": {
            name: {"by time": tally.kills_by_time, "at calls": tally.kills_at_calls,
                   "too late": tally.late, "trials": tally.trials}
            for name, tally in found.items()
        },
    }  # fmt: skip
    print(json.dumps(figures, indent=2))  # noqa: T201
    if given.save:
        save("kill", figures)
    sys.exit(bool(figures["faults"]))


if __name__ == "__main__":
    main()
