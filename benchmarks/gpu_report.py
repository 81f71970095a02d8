"""What a run on a GPU found, saved after every measurement, and how much time it has left."""

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Figure = dict[str, Any]


class WrongResult(Exception):
    """A kernel computed something else than its reference: its speed means nothing."""


def figure(
    name: str, value: float, unit: str, *, goal: float | None = None, **details: Any
) -> Figure:
    """`value` is better when it is larger where there is a goal."""
    found: Figure = {"name": name, "value": float(f"{value:.4g}"), "unit": unit}
    if goal is not None:
        found |= {"goal": goal, "met": value >= goal}
    return found | details


@dataclass(slots=True)
class Section:
    """Figures of one kind. Work that would not end before `deadline` is skipped."""

    name: str
    deadline: float
    saved: Callable[[], None]
    figures: list[Figure] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def attempt(self, name: str, expects: float, work: Callable[[], Sequence[Figure]]) -> bool:
        """Do what takes about `expects` seconds, and whether it was done.

        Whatever fails is kept, with its traceback, and the run goes on.
        """
        left = self.deadline - time.perf_counter()
        if expects > left:
            self.skipped.append(f"{name}: takes about {expects:.0f} s, {max(left, 0):.0f} are left")
            say(f"  skipped {self.skipped[-1]}")
            return False
        begun = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - of any kind: other figures do not depend on it
            self.fail(name, error)
            return False
        else:
            self.figures += found
            for one in found:
                say(f"  {told(one)}")
            return True
        finally:
            release()
            say(f"  {name}: {time.perf_counter() - begun:.1f} s")
            self.saved()

    def fail(self, name: str, error: Exception) -> None:
        """Keep why something has no figure."""
        why = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        self.failed.append({"name": name, "why": why, "traceback": trace})
        say(f"  FAILED {name}: {why}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "notes": self.notes,
            "figures": self.figures,
            "skipped": self.skipped,
            "failed": self.failed,
        }


@dataclass(slots=True)
class Report:
    """All of a run, in `file`."""

    file: Path
    head: dict[str, Any]
    sections: list[Section] = field(default_factory=list)

    def section(self, name: str, deadline: float) -> Section:
        """A new one."""
        say(name)
        self.sections.append(Section(name, deadline, self.save))
        return self.sections[-1]

    @property
    def failed(self) -> list[str]:
        """What has no figure because it went wrong."""
        return [f"{part.name}: {one['name']}" for part in self.sections for one in part.failed]

    def save(self) -> None:
        """Write what there is; a file that is read meanwhile is the one before."""
        judged = [one for part in self.sections for one in part.figures if "goal" in one]
        short = ("name", "value", "unit", "goal", "met")
        whole = self.head | {
            "failed": self.failed,
            "goals": [{key: one[key] for key in short} for one in judged],
            "sections": {part.name: part.as_dict() for part in self.sections},
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(self.file.name + ".part")
        partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.file)


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def told(one: Figure) -> str:
    """A figure for people."""
    text = f"{one['name']}: {one['value']:g} {one['unit']}"
    if "goal" not in one:
        return text
    return f"{text} (goal {one['goal']:g}: {'met' if one['met'] else 'NOT met'})"


def release() -> None:
    """Give the memory back of what nothing refers to, cycles included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
