"""The files beside the weights: tokenizer, chat template, generation config."""

import shutil
from pathlib import Path
from typing import Any

from mindpress.errors import InputError, MindpressError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
                   "merges.txt", "special_tokens_map.json", "added_tokens.json",
                   "chat_template.jinja", "chat_template.json", "qwen.tiktoken")  # fmt: skip
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json")
# One of these must be there for a tokenizer to load.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken")


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a folder without a tokenizer."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(
            f"{folder}: no tokenizer ({', '.join(VOCABULARIES)})",
            hint="copy the tokenizer files of the original model into the folder",
        )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers tokenizer of a folder. Never prompts."""
    from transformers import AutoTokenizer

    check_tokenizer_files(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except MindpressError:
        raise
    except (ValueError, OSError, KeyError, ImportError, TypeError) as error:
        raise InputError(*_tokenizer_words(folder, error)) from None
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exception
        raise InputError(*_tokenizer_words(folder, error)) from None


def _tokenizer_words(folder: Path, error: Exception) -> tuple[str]:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (f"{folder}: the tokenizer cannot be read: {reason}",)


def copy_companions(source: Path, target: Path) -> list[str]:
    """Copy what exists of COMPANIONS and custom code; returns the names copied."""
    names = [name for name in COMPANIONS if (source / name).is_file()]
    names += sorted(file.name for file in source.glob("*.py"))
    for name in names:
        shutil.copyfile(source / name, target / name)
    return names
