"""The command tree, and the one place where an error becomes an exit code."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mindpress import __version__
from mindpress.cli import bench, chat, check_env, compare, convert, demo, inspect, lite, validate
from mindpress.cli.app import INTERRUPTED, TERMINATED
from mindpress.cli.arguments import mistaken, normalized, without_traceback
from mindpress.cli.console import Console
from mindpress.cli.environment import quiet_libraries, wants_traceback
from mindpress.cli.failures import explained
from mindpress.errors import MindpressError

STOPPED = {INTERRUPTED: "Ctrl-C", TERMINATED: "SIGTERM"}
RESUMED = {
    "auto-awq", "auto-gptq", "smooth-quant", "calibrate", "convert", "validate", "compare"
}  # fmt: skip
RESUME = "run the same command to go on where it stopped"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)
app.add_typer(lite.app, name="lite")
app.command("convert")(convert.convert)
app.command("inspect")(inspect.inspect)
app.command("validate")(validate.validate)
app.command("compare")(compare.compare)
app.add_typer(bench.app, name="bench")
app.command("chat")(chat.chat)
app.command("demo")(demo.demo)
app.command("check-env")(check_env.check_env)


def _version(wanted: bool) -> bool:
    if wanted:
        Console().text(f"mindpress {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the Python traceback of a bug.")
    ] = False,
) -> None:
    """Make a language model small and fast, and prove that it still works.

    Start with `mindpress demo`: it quantizes, converts, checks and asks a small model that
    comes with the package.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    given, trace = without_traceback(arguments)
    quiet_libraries()
    try:
        # Typer gives 130 for Ctrl-C, and None for a command that ended well.
        code = app(normalized(given), prog_name="mindpress", standalone_mode=False) or 0
        sys.stdout.flush()
    except SystemExit as stopped:  # of SIGTERM
        code = TERMINATED if stopped.code is None else int(stopped.code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 - the last net: no user sees a bare traceback
        code = _failed(error, given, trace=trace or wants_traceback())
    if code in STOPPED:
        said = {argument.replace("_", "-") for argument in given}
        Console().error(f"stopped by {STOPPED[code]}", RESUME if RESUMED & said else None)
    return code


def _failed(error: Exception, given: Sequence[str], *, trace: bool) -> int:
    console = Console()
    if isinstance(error, typer.TyperException):
        return _misused(error, given, console)
    known = error if isinstance(error, MindpressError) else explained(error)
    if trace:
        console.trace(error)
    if known:
        console.error(str(known), known.hint)
        return known.exit_code
    words = " ".join(str(error).split())
    console.error(
        f"{type(error).__name__}: {words}; this is a bug",
        "run it again with --traceback and report what it prints",
    )
    return 1


def _misused(error: typer.TyperException, given: Sequence[str], console: Console) -> int:
    words = error.format_message()
    if words.startswith("Usage:"):  # a group without a command: Typer raises its help
        console.text(words)
        return error.exit_code
    mistake = mistaken(given) if "extra argument" in words else None
    if mistake:
        console.error(str(mistake), mistake.hint)
        return mistake.exit_code
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mindpress"
    console.error(" ".join(words.split()).rstrip("."), f"`{command} --help` lists what it takes")
    return error.exit_code
