"""The beginning and end of every command. The rest loads inside `main`, where Ctrl-C is caught."""

import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        for stream in (sys.stdout, sys.stderr):
            # A terminal without the letters of an answer shows others in their place.
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        from mindpress.cli.commands import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by Ctrl-C\n")
        code = INTERRUPTED
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a handler's
    """End as Ctrl-C does: locks are given back, and what is finished stays for the next run."""
    raise SystemExit(TERMINATED)
