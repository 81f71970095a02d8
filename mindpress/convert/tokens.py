"""The ids of the first and the last token of a text, and the tokenizer's files."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.manifest import NAME as MANIFEST
from mindpress.checkpoint.reader import read_json, refuse_link_outside
from mindpress.errors import InputError
from mindpress.models.values import LARGEST_DIMENSION
from mindpress.sources.folder import ModelFolder

# LMDeploy takes fixed ids for these families (source_model/qwen.py), whatever the tokenizer says.
FIXED = {"Qwen2ForCausalLM": (151643, 151645)}
PATTERNS = ("*.json", "*.py", "tokenizer.model", "qwen.tiktoken", "merges.txt",
            "chat_template.jinja")  # fmt: skip
# What mindpress itself writes into a model folder is no part of a tokenizer.
OWN = (MANIFEST, "report.json", "statistics.json", "validation")


def special_ids(folder: ModelFolder) -> tuple[int, int]:
    """Ids of the begin and the end token; the begin is 0 where there is none.

    Raises InputError when nothing names an end token.
    """
    fixed = FIXED.get(folder.architecture.hf_class)
    if fixed and max(fixed) < folder.shape.vocab:
        return fixed
    end = _id_of("eos", folder.folder, folder.config)
    if end is None:
        raise InputError(
            f"{folder.folder}: no file names the end token",
            hint="add `eos_token_id` to config.json",
        )
    return _id_of("bos", folder.folder, folder.config) or 0, end


def tokenizer_files(folder: Path) -> list[Path]:
    """The files LMDeploy copies beside the weights, and the chat template.

    InputError for one that links to somewhere else.
    """
    found = {file for pattern in PATTERNS for file in folder.glob(pattern) if file.is_file()}
    chosen = sorted(file for file in found if not file.name.startswith(OWN))
    for file in chosen:
        refuse_link_outside(file)
    return chosen


def copy_files(files: list[Path], target: Path) -> list[Path]:
    """Copy into the folder `target`; the copies."""
    for file in files:
        with disk_errors(target / file.name):
            shutil.copyfile(file, target / file.name)
    return [target / file.name for file in files]


def _id_of(kind: str, folder: Path, config: dict[str, Any]) -> int | None:
    """The id of the bos or eos token; InputError when it can be none."""
    found = _stated(kind, folder, config)
    if found is not None and not 0 <= found <= LARGEST_DIMENSION:
        raise InputError(
            f"{folder}: the {kind} token has the number {found}",
            hint="copy the tokenizer files of the original model into the folder",
        )
    return found


def _stated(kind: str, folder: Path, config: dict[str, Any]) -> int | None:
    """The tokenizer decides, then the configs."""
    token = _token(f"{kind}_token", folder)
    if token is not None:
        for name, number in _numbered(folder):
            if name == token and isinstance(number, int):
                return number
    generation = folder / "generation_config.json"
    for source in (config, read_json(generation) if generation.is_file() else {}):
        value = source.get(f"{kind}_token_id")
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _token(key: str, folder: Path) -> str | None:
    """The text of a special token, for example `</s>`."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        value = read_json(file).get(key) if file.is_file() else None
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value
    return None


def _numbered(folder: Path) -> Iterator[tuple[str, object]]:
    """Special tokens and their ids, from the smallest file that has them."""
    settings = folder / "tokenizer_config.json"
    added = read_json(settings).get("added_tokens_decoder") if settings.is_file() else None
    for number, entry in (added if isinstance(added, dict) else {}).items():
        if isinstance(entry, dict) and number.isdecimal():
            yield str(entry.get("content")), int(number)
    vocabulary = folder / "tokenizer.json"
    if not vocabulary.is_file():
        return
    tokenizer = read_json(vocabulary)
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict):
            yield str(entry.get("content")), entry.get("id")
    model = tokenizer.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(words, dict):
        yield from words.items()
