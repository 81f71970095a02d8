"""Spellings that users bring from other tools, brought into the form that Typer reads."""

from collections.abc import Sequence
from itertools import pairwise

from mindpress.errors import ConfigError

# Flags that LMDeploy's users write with a value: `--search-scale True`.
SWITCHES = ("--search-scale", "--w-sym", "--kv-sym")
VALUES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
TRACEBACK = "--traceback"


def normalized(arguments: Sequence[str]) -> list[str]:
    """Arguments in which every switch stands alone: `--flag True` is `--flag`, and
    `--flag False` or `--flag=0` is `--no-flag`. What follows `--` stays as it is.
    """
    left, result = list(arguments), []
    while left:
        argument = left.pop(0)
        if argument == "--":
            return [*result, argument, *left]
        flag, equals, value = argument.partition("=")
        flag = flag.replace("_", "-")
        if flag not in SWITCHES:
            result.append(argument)
            continue
        if not equals and left and left[0].lower() in VALUES:
            value = left.pop(0)
        result.append(_switch(flag, value))
    return result


def mistaken(arguments: Sequence[str]) -> ConfigError | None:
    """Of a command line with a word too many: the error, when that word follows a switch.

    `--search-scale model` may be right, so only the parser knows that a word is too many.
    """
    for flag, value in pairwise(arguments):
        name = flag.replace("_", "-")
        if name in SWITCHES and value.lower() not in VALUES and not value.startswith("-"):
            return not_a_switch(name, value)
    return None


def not_a_switch(flag: str, value: str) -> ConfigError:
    """The error of a switch with another value than true or false."""
    return ConfigError(f"{flag} {value}: neither True nor False", hint=f"write {flag} alone")


def without_traceback(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without `--traceback`, wherever it stands, and whether it was there."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    head = [argument for argument in arguments[:end] if argument != TRACEBACK]
    return [*head, *arguments[end:]], len(head) < end


def _switch(flag: str, value: str) -> str:
    """`value` is empty for a bare switch; ConfigError for one that is neither true nor false."""
    if not value:
        return flag
    if value.lower() not in VALUES:
        raise not_a_switch(flag, value)
    return flag if VALUES[value.lower()] else f"--no-{flag.removeprefix('--')}"
