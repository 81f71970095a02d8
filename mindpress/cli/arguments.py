"""Spellings that users bring from other tools, brought into the form that Typer reads."""

from collections.abc import Sequence

# Flags that LMDeploy's users write with a value: `--search-scale True`.
SWITCHES = ("--search-scale", "--w-sym")
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


def without_traceback(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without `--traceback`, wherever it stands, and whether it was there."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    head = [argument for argument in arguments[:end] if argument != TRACEBACK]
    return [*head, *arguments[end:]], len(head) < end


def _switch(flag: str, value: str) -> str:
    """`value` is empty for a bare switch; one that is neither true nor false stays for Typer."""
    if not value:
        return flag
    if value.lower() not in VALUES:
        return f"{flag}={value}"
    return flag if VALUES[value.lower()] else f"--no-{flag.removeprefix('--')}"
