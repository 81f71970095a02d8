"""Where the figures of a long run are kept."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"


def save(name: str, figures: dict[str, Any]) -> None:
    """Write `results/<name>.json`: command, machine, commit, figures."""
    command = f"python -m tests.stress.{name} {shlex.join(sys.argv[1:])}"
    text = json.dumps({"command": command.strip(), "machine": machine(), **figures}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
