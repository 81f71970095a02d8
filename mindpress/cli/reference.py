"""docs/cli.md, written from the command tree: `python -m mindpress.cli.reference > docs/cli.md`."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import typer

from mindpress.cli.app import INTERRUPTED, TERMINATED
from mindpress.cli.commands import app
from mindpress.cli.console import Console
from mindpress.errors import MindpressError

HEAD = """# Command line

Written from the command tree by `python -m mindpress.cli.reference`; do not edit.

Results go to stdout; progress, notes, warnings and errors to stderr. On a terminal progress is
live, elsewhere it is a line per step. Commands and options take underscores for dashes:
`auto_awq` is `auto-awq`, `--work_dir` is `--work-dir`. `NO_COLOR` turns colours off.
"""
CODES = """## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a bug in mindpress: one line names it, `--traceback` or `MINDPRESS_TRACEBACK=1` shows where |
"""


def reference() -> str:
    """The whole page, in Markdown."""
    commands = "\n".join(command(name, callback) for name, callback in commands_of(app))
    return f"{HEAD}\n{commands}\n{CODES}{codes()}"


def codes() -> str:
    """The rows of the exit codes, from the classes of `mindpress.errors`."""
    kinds = [MindpressError, *_subclasses(MindpressError)]
    rows: dict[int, str] = {}
    for kind in kinds:
        if kind.exit_code != 1:
            rows.setdefault(kind.exit_code, (kind.__doc__ or "").splitlines()[0].rstrip("."))
    rows |= {INTERRUPTED: "stopped by Ctrl-C", TERMINATED: "stopped by SIGTERM"}
    return "".join(f"| {code} | {words} |\n" for code, words in sorted(rows.items()))


def commands_of(group: typer.Typer, before: str = "mindpress") -> Iterator[tuple[str, Callable]]:
    """Every command with its full name, in the order of `--help`."""
    for found in group.registered_groups:
        if found.typer_instance is not None:
            yield from commands_of(found.typer_instance, f"{before} {found.name}")
    for found in group.registered_commands:
        if found.callback is not None:
            yield f"{before} {found.name}", found.callback


def command(name: str, callback: Callable) -> str:
    """One command: what it does, its arguments, its options."""
    parameters = inspect.signature(callback, eval_str=True).parameters.values()
    arguments = [p for p in parameters if isinstance(_info(p), _ARGUMENT)]
    options = [p for p in parameters if isinstance(_info(p), _OPTION)]
    usage = " ".join([name, *(_info(p).metavar for p in arguments), "[OPTIONS]"])
    parts = [f"## {name}\n", f"    {usage}\n", f"{inspect.cleandoc(callback.__doc__ or '')}\n"]
    if arguments:
        parts += ["| argument | meaning |", "|---|---|"]
        parts += [f"| `{_info(p).metavar}` | {_info(p).help} |" for p in arguments]
        parts.append("")
    parts += ["| option | default | meaning |", "|---|---|---|"]
    parts += [f"| {_spelling(p)} | {_default(p)} | {_info(p).help} |" for p in options]
    return "\n".join([*parts, ""])


def _info(parameter: inspect.Parameter) -> Any:
    """What Typer was told of a parameter."""
    return parameter.annotation.__metadata__[0]


def _spelling(parameter: inspect.Parameter) -> str:
    info = _info(parameter)
    # Typer keeps the first spelling where a default would stand.
    names = ", ".join(f"`{name}`" for name in (info.default, *info.param_decls))
    kind = _kind(get_args(parameter.annotation)[0])
    return f"{names} {kind}".rstrip()


def _kind(annotation: Any) -> str:
    """The value an option takes; nothing for a switch."""
    if get_origin(annotation) is Literal:
        return "\\|".join(map(str, get_args(annotation)))
    if isinstance(annotation, UnionType):
        return _kind(next(part for part in get_args(annotation) if part is not NoneType))
    if get_origin(annotation) is list:
        return _kind(get_args(annotation)[0])
    return {bool: "", int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(annotation, "TEXT")


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is None or value is False or value is inspect.Parameter.empty:
        return ""
    return f"`{value}`"


def _subclasses(kind: type[MindpressError]) -> Iterator[type[MindpressError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


_ARGUMENT, _OPTION = type(typer.Argument()), type(typer.Option())

if __name__ == "__main__":
    Console().stream(reference())
