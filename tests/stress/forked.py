"""Commands in forked processes: what takes seconds to import is imported once.

A child is the process that a user would have started, but for the imports: it runs the command
line's own `run`, and is killed by the system's SIGKILL.
"""

import ctypes
import importlib
import mmap
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.stress.disk_calls import Fault, arm, is_loaded

IMPORTED = ("torch", "transformers", "transformers.models.llama.modeling_llama", "tokenizers",
            "mindpress.cli.commands", "mindpress.lite.quantize", "mindpress.lite.calibrate",
            "mindpress.convert.convert", "mindpress.engine.validate",
            "mindpress.engine.compare")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, negative for a signal; calls that changed the disk."""

    code: int
    output: str
    calls: int
    seconds: float


class ForkedCommands:
    """Runs commands, one at a time, whose output goes to a file of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "output.txt"
        self._shared = mmap.mmap(-1, ctypes.sizeof(ctypes.c_long))
        self._calls = ctypes.c_long.from_buffer(self._shared)
        for name in IMPORTED:
            importlib.import_module(name)

    def run(
        self,
        arguments: Sequence[str],
        watched: Path,
        fault: Fault | None = None,
        kill_after: float | None = None,
    ) -> Ended:
        """Run a command to its end, to `fault` below `watched`, or for `kill_after` seconds."""
        self._calls.value = 0
        began = time.monotonic()
        child = os.fork()
        if not child:
            self._become(arguments, watched, fault)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)  # one that has ended stays until it is waited for
        _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - began
        output = self._log.read_text(encoding="utf-8", errors="replace")
        return Ended(os.waitstatus_to_exitcode(status), output, self._calls.value, seconds)

    def must(self, arguments: Sequence[str], watched: Path) -> None:
        """Run a command that has to end well."""
        ended = self.run(arguments, watched)
        if ended.code:
            raise SystemExit(ended.output)

    def _become(self, arguments: Sequence[str], watched: Path, fault: Fault | None) -> None:
        from mindpress.cli.commands import run
        from mindpress.lite import quantize

        # These runs take seconds, and are to keep what others keep every half minute.
        quantize.KeptSensitivity = partial(quantize.KeptSensitivity, seconds=0.0)  # pyright: ignore

        code = 99
        try:
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if is_loaded():
                arm(watched, self._calls, fault or Fault())
            code = run(list(arguments))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
