"""Whether the fields of a settings dataclass have values of their types: Python does not look."""

from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mindpress.errors import ConfigError

WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


def check_types(settings: Any) -> None:
    """ConfigError naming the field, its value and what is expected."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value, kind = getattr(settings, field.name), hints[field.name]
        if not _fits(value, kind):
            raise ConfigError(f"{field.name} {value!r}: must be {_named(kind)}")


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return isinstance(value, tuple) and all(_fits(one, inner) for one in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _named(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        parts = [_named(one) for one in get_args(kind) if one is not NoneType]
        parts += ["None"] if NoneType in get_args(kind) else []
        return " or ".join(dict.fromkeys(parts))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return "a tuple of texts"
    return WORDS.get(kind, str(kind))
