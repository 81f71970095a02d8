"""Errors the user can act on; the command line prints them without a traceback.

Every class is one exit code of the command (documented in `docs/cli.md`).
"""

LONGEST = 1000


def one_line(text: str) -> str:
    """What a file said, fit for a terminal: no line ends, no control characters, not too long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


class MindpressError(Exception):
    """Base of all of them. `hint` names the next thing to try; the message becomes one line."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(one_line(message))
        self.hint = hint


class ConfigError(MindpressError):
    """The request contradicts itself or the model: wrong flag values."""

    exit_code = 2


class InputError(MindpressError):
    """A file or folder that was given cannot be used as it is."""

    exit_code = 3


class UnsupportedModelError(InputError):
    """The architecture has no description in `mindpress.models`."""


class ResourceError(MindpressError):
    """Memory, disk space or permission to write is missing."""

    exit_code = 4


class NetworkError(MindpressError):
    """The Hub cannot be reached, or does not have what was asked for."""

    exit_code = 5


class NumericError(MindpressError):
    """NaN or infinite values in weights or activations."""

    exit_code = 6


class LockedError(MindpressError):
    """Another run is writing the same output."""

    exit_code = 7
