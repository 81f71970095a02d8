"""Fields of a `quantization_config` that some program wrote."""

from collections.abc import Mapping
from typing import Any

from mindpress.errors import InputError
from mindpress.formats.quantized import WHOLE_ROW


def one_of(config: Mapping[str, Any], key: str, allowed: tuple[int, ...]) -> int:
    """A whole number among `allowed`."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        *some, last = map(str, allowed)
        expected = f"{', '.join(some)} or {last}" if some else last
        raise InputError(
            f"config.json: quantization_config: {key} is {value!r}, expected {expected}"
        )
    return value


def group_size(config: Mapping[str, Any], key: str) -> int:
    """A positive number of inputs, or -1 for the whole row."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != WHOLE_ROW):
        raise InputError(f"config.json: quantization_config: {key} is {value!r}")
    return value


def flag(config: Mapping[str, Any], key: str, *, absent: bool = False) -> bool:
    """True or false; `absent` when the key is missing or null."""
    value = config.get(key)
    if value is None:
        return absent
    if not isinstance(value, bool):
        raise InputError(
            f"config.json: quantization_config: {key} is {value!r}, expected true or false"
        )
    return value
