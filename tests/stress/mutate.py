"""Damaged inputs by the thousand: each is read or refused in one line, and never more than that.

    python -m tests.stress.mutate                  100,000 cases, results/mutate.json
    python -m tests.stress.mutate --cases 1500     fewer; the results are printed only
    python -m tests.stress.mutate --replay 123     one of them, with its traceback

Cases run in a process that is watched: one that takes longer than five seconds is killed and
counts as hanging, memory beyond a bound counts as a fault, and so does a process that dies.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.machine import machine
from tests.stress.damage import Cases, Outcome

SECONDS, WAITING = 5.0, 60.0
# Beside them a case may take so long for making its input.
MAKING = 10.0
# What a case may add to the address space of the process.
MEMORY = 1 << 30
# A new process after so many, so that caches of the libraries do not add up.
BATCH = 5000
FINE = ("accepted", "refused 2", "refused 3", "refused 6")
RESULTS = Path(__file__).parent / "results" / "mutate.json"


@dataclass
class Tally:
    """Counts of what happened, and the first seeds of every fault."""

    results: Counter[str] = field(default_factory=Counter)
    by_target: dict[str, Counter[str]] = field(default_factory=dict)
    faults: dict[str, list[int]] = field(default_factory=dict)
    slowest: float = 0.0

    def add(self, seed: int, outcome: Outcome) -> None:
        if outcome.result in FINE and outcome.seconds > SECONDS:
            outcome = replace(outcome, result="hang", fault=f"over {SECONDS} s")
        self.results[outcome.result] += 1
        self.by_target.setdefault(outcome.target, Counter())[outcome.result] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        if outcome.result not in FINE:
            text = f"{outcome.file}: {outcome.result}: {outcome.fault}"
            self.faults.setdefault(text, []).append(seed)

    @property
    def found(self) -> int:
        """Cases that are faults."""
        return sum(map(len, self.faults.values()))

    def as_dict(self) -> dict[str, Any]:
        return {
            "cases": self.results.total(),
            "results": dict(sorted(self.results.items())),
            "slowest_case_seconds": round(self.slowest, 2),
            "by_target": {n: dict(sorted(c.items())) for n, c in sorted(self.by_target.items())},
            "faults": {text: seeds[:5] for text, seeds in sorted(self.faults.items())},
        }


def run(
    first: int, cases: int, only: str | None = None, told: Callable[[Tally], None] | None = None
) -> Tally:
    """Run the cases `first` and following, in processes that are replaced when they fail.

    `told` hears what was found after each of them.
    """
    tally = Tally()
    with TemporaryDirectory(dir=_memory_folder()) as home:
        prepared = Cases(Path(home), only)
        seed, last = first, first + cases
        while seed < last:
            seed = _batch(prepared, seed, min(seed + BATCH, last), tally)
            if told:
                told(tally)
    return tally


def _memory_folder() -> str | None:
    """Where files are no writes to a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _batch(cases: Cases, first: int, last: int, tally: Tally) -> int:
    """Run cases in a process of their own up to `last` or a failure; the next seed to run."""
    forked = multiprocessing.get_context("fork")
    ours, theirs = forked.Pipe(duplex=False)
    worker = forked.Process(target=_work, args=(cases, first, last, theirs))
    worker.start()
    theirs.close()
    seed = first
    try:
        while seed < last:
            if not _answers(ours, worker.pid):
                _refresh(cases)
                tally.add(seed, Outcome("?", "?", "hang", f"over {SECONDS} s", SECONDS))
                return seed + 1
            try:
                outcome = ours.recv()
            except EOFError:
                worker.join()
                _refresh(cases)
                died = Outcome("?", "?", "died", f"exit code {worker.exitcode}")
                tally.add(seed, died)
                return seed + 1
            tally.add(seed, outcome)
            seed += 1
        return seed
    finally:
        worker.kill()
        worker.join()


def _answers(ours: Connection, worker: int | None) -> bool:
    """Whether a case ends in time: of the processor, for others may keep this one from it.

    One that waits for something, a pipe for example, ends by the clock.
    """
    process = psutil.Process(worker)
    used = sum(process.cpu_times()[:2])
    waited = time.monotonic()
    while not ours.poll(1.0):
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        if alive and sum(process.cpu_times()[:2]) - used > SECONDS + MAKING:
            return False
        if time.monotonic() - waited > WAITING:
            return False
    return True


def _refresh(cases: Cases) -> None:
    """Inputs that a killed process left damaged are written again."""
    for file in cases.originals:
        cases.restore(file)


def _work(cases: Cases, first: int, last: int, answers: Connection) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for seed in range(first, last):
        answers.send(cases.run(seed))


def _replay(seed: int, only: str | None) -> None:
    with TemporaryDirectory(dir=_memory_folder()) as home:
        outcome = Cases(Path(home), only, verbose=True).run(seed)
    print(json.dumps(asdict(outcome), indent=2))  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", help="kinds of input whose names begin so")
    parser.add_argument("--replay", type=int, help="run one case and show its traceback")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    if given.replay is not None:
        _replay(given.replay, given.only)
        return 0
    tally = run(given.first, given.cases, given.only, _Report(given.save))
    return 1 if tally.found else 0


@dataclass
class _Report:
    """Prints, and saves, what was found so far."""

    save: bool
    begun: float = field(default_factory=time.monotonic)

    def __call__(self, tally: Tally) -> None:
        seconds = round(time.monotonic() - self.begun)
        command = f"python -m tests.stress.mutate {' '.join(sys.argv[1:])}".strip()
        figures = {"command": command, "machine": machine(), "seconds": seconds}
        text = json.dumps(figures | tally.as_dict(), indent=2)
        if self.save:
            RESULTS.write_text(text + "\n", encoding="utf-8")
        print(text if not self.save else f"{tally.results.total()} cases, {tally.found} faults")  # noqa: T201


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
