"""The beginning and end of every command. The rest loads inside `main`, where Ctrl-C is caught."""

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    try:
        for stream in (sys.stdout, sys.stderr):
            # A terminal without the letters of an answer shows others in their place.
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        from mindpress.cli.commands import run

        code = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by Ctrl-C\n")
        code = 130
    sys.exit(code)
