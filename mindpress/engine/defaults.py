"""What a model says of its own generation: which tokens end an answer, how to sample."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mindpress.checkpoint.reader import read_json
from mindpress.engine.config import Sampling
from mindpress.errors import ConfigError, InputError


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """`sampling` holds the fields of `Sampling` that the model sets."""

    eos_ids: frozenset[int]
    sampling: Mapping[str, int | float]


def read_defaults(folder: Path, tokenizer: Any) -> ModelDefaults:
    """From generation_config.json, config.json (where they exist) and the tokenizer.

    The tokens of all three end an answer: instruction models often add one in a single place.
    """
    generation = _read(folder / "generation_config.json")
    stated = (generation.get("eos_token_id"), _read(folder / "config.json").get("eos_token_id"))
    ids = _token_ids(folder, tokenizer.eos_token_id).union(
        *(_token_ids(folder, value) for value in stated)
    )
    return ModelDefaults(frozenset(ids), _sampling(folder, generation))


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _token_ids(folder: Path, value: object) -> set[int]:
    values = value if isinstance(value, list) else [value]
    ids = {one for one in values if isinstance(one, int) and not isinstance(one, bool)}
    if len(ids) < len(values) and value is not None:
        raise InputError(f"{folder}: `eos_token_id` is {value!r}, expected token numbers")
    return ids


def _sampling(folder: Path, generation: Mapping[str, Any]) -> dict[str, int | float]:
    values = {
        field.name: generation[field.name]
        for field in fields(Sampling)
        if generation.get(field.name) is not None
    }
    if values.get("top_k") == -1:
        values["top_k"] = 0  # as vLLM spells "off"
    if generation.get("do_sample") is False:
        values["temperature"] = 0.0
    file = folder / "generation_config.json"
    for name, value in values.items():
        kinds = int if name == "top_k" else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(f"{file}: `{name}` is {value!r}, expected a number")
    try:
        Sampling(**values)
    except ConfigError as error:
        raise InputError(f"{file}: {error}") from None
    return values
