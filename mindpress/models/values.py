"""One value out of config.json: of the right type and within reason, or an InputError names it."""

from collections.abc import Mapping
from typing import Any

from mindpress.errors import InputError

# A config that asks for more than this is damaged or hostile; nothing is allocated for it.
LARGEST_DIMENSION = 2**24
LARGEST_NUMBER = 1e30
SHOWN = 60

Config = Mapping[str, Any]


def integer(
    config: Config, key: str, default: int | None = None, most: int = LARGEST_DIMENSION
) -> int:
    """A whole number from 1 to `most`; `default` when the key is absent or null."""
    value = _value(config, key, default)
    if value is None:
        raise InputError(f"config.json: `{key}` is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise wrong(key, value, f"a whole number from 1 to {most}")
    return value


def number(config: Config, key: str, default: float) -> float:
    """A positive finite number; `default` when the key is absent or null."""
    value = _value(config, key, default)
    if not is_number(value) or value <= 0:
        raise wrong(key, value, "a positive number")
    return float(value)


def optional_number(config: Config, key: str) -> float | None:
    """A positive finite number, or None when the key is absent or null."""
    return None if config.get(key) is None else number(config, key, 0.0)


def flag(config: Config, key: str, default: bool = False) -> bool:
    """True or false; `default` when the key is absent or null."""
    value = _value(config, key, default)
    if not isinstance(value, bool):
        raise wrong(key, value, "true or false")
    return value


def word(config: Config, key: str, default: str) -> str:
    """A word; `default` when the key is absent or null."""
    value = _value(config, key, default)
    if not isinstance(value, str):
        raise wrong(key, value, "a word")
    return value


def is_number(value: object) -> bool:
    """Whether it is a finite number. JSON as Python reads it has NaN and Infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST_NUMBER


def _value(config: Config, key: str, default: Any) -> Any:
    value = config.get(key)
    return default if value is None else value


def wrong(key: str, value: object, wanted: str) -> InputError:
    """The error that names a key of config.json, its value and what was expected."""
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return InputError(f"config.json: `{key}` is {shown}, expected {wanted}")
