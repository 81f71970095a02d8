"""Regular expressions that a config brings along, matched against the names of modules.

They come with a model, so that one which is no expression, or backtracks for ever, is refused.
"""

import regex

from mindpress.errors import InputError

SECONDS_TO_MATCH = 0.1


def check_pattern(pattern: str, where: str) -> None:
    """InputError when it cannot be read; `where` says what it is of."""
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: a pattern cannot be read: {error}") from None


def matches(pattern: str, name: str, where: str) -> bool:
    """Whether it fits the beginning of `name`; InputError when that takes too long."""
    try:
        return regex.match(pattern, name, timeout=SECONDS_TO_MATCH) is not None
    except TimeoutError:
        raise InputError(f"{where}: `{pattern}` does not come to an end") from None
