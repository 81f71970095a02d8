"""The only module that prints. Results go to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.text import Text

GAP = "  "


class Console:
    """What one command says, as text for people or as one JSON object for programs.

    Colour only where the stream is a terminal and NO_COLOR is not set (rich looks).
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._out = Terminal(highlight=False, soft_wrap=True)
        self.error_terminal = Terminal(stderr=True, highlight=False, soft_wrap=True)

    def result(self, value: Any) -> None:
        """The outcome for programs: one JSON object on stdout, when --json was given."""
        if self.as_json:
            print(json.dumps(plain(value), indent=2, ensure_ascii=False), flush=True)

    def heading(self, words: str) -> None:
        """A line above what follows, on stdout."""
        self._show(Text(words, style="bold"))

    def text(self, words: str = "") -> None:
        """A line on stdout, for people."""
        self._show(Text(words))

    def pairs(self, values: Mapping[str, object]) -> None:
        """Names and values under one another, on stdout; None is left out."""
        shown = {name: str(value) for name, value in values.items() if value is not None}
        width = max(map(len, shown), default=0)
        for name, value in shown.items():
            self._show(Text.assemble((name.ljust(width), "dim"), GAP, value))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Rows under column names on stdout; all columns but the first stand to the right."""
        body = [list(row) for row in rows]
        widths = [max(map(len, column)) for column in zip(columns, *body, strict=True)]
        for index, row in enumerate([list(columns), *body]):
            cells = [
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self._show(Text(GAP.join(cells).rstrip(), style="dim" if index == 0 else ""))

    def stream(self, piece: str) -> None:
        """A piece of an answer on stdout, at once and as it is."""
        sys.stdout.write(piece)
        sys.stdout.flush()

    def say(self, words: str, style: str = "") -> None:
        """A line about the work, on stderr; not with --quiet."""
        if not self.quiet:
            self.error_terminal.print(Text(words, style=style))

    def warn(self, words: str) -> None:
        """Something the user should know, on stderr, also with --quiet."""
        self.error_terminal.print(Text.assemble(("warning: ", "yellow"), words))

    def error(self, words: str, hint: str | None = None) -> None:
        """Why the command failed and what to try, on stderr."""
        self.error_terminal.print(Text.assemble(("error: ", "bold red"), words))
        if hint:
            self.error_terminal.print(Text.assemble(("hint: ", "cyan"), hint))

    def trace(self, error: BaseException) -> None:
        """The traceback of a bug, on stderr, for --traceback."""
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))

    def _show(self, line: Text) -> None:
        if not self.as_json:
            self._out.print(line)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses as objects, paths as text, NaN as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value) if isinstance(value, Path) else repr(value)
