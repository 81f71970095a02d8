"""The files beside the weights: tokenizer, chat template, generation config."""

import shutil
from pathlib import Path
from typing import Any

from mindpress.checkpoint.disk import disk_errors
from mindpress.checkpoint.reader import refuse_link_outside
from mindpress.errors import InputError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
                   "merges.txt", "special_tokens_map.json", "added_tokens.json",
                   "chat_template.jinja", "chat_template.json", "qwen.tiktoken")  # fmt: skip
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json")
# What its code in Rust raises where it did not expect to fail; the class has no public name.
PANIC = "PanicException"
TRIED = "The river, 1 é 😀\n"
# One of these must be there for a tokenizer to load.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken")


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a folder without a tokenizer, or with links to somewhere else in its place."""
    companions(folder)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(
            f"{folder}: no tokenizer ({', '.join(VOCABULARIES)})",
            hint="copy the tokenizer files of the original model into the folder",
        )


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The transformers tokenizer of a folder, tried on a few words. Never prompts."""
    from transformers import AutoTokenizer

    check_tokenizer_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        tokenizer.decode(tokenizer(TRIED)["input_ids"])
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == PANIC:
            raise _tokenizer_error(folder, error) from None
        raise
    return tokenizer


def _tokenizer_error(folder: Path, error: BaseException) -> InputError:
    text = str(error).strip()
    if "trust_remote_code" in text:
        return InputError(
            f"{folder}: its tokenizer is code of its own, which is not run",
            hint="read the .py files, and if you trust them add --trust-remote-code",
        )
    reason = text.splitlines()[0] if text else type(error).__name__
    return InputError(
        f"{folder}: the tokenizer cannot be read: {reason}",
        hint="copy the tokenizer files of the original model into the folder",
    )


def companions(folder: Path) -> list[Path]:
    """What exists of COMPANIONS, and custom code; InputError for a link to somewhere else."""
    named = [folder / name for name in COMPANIONS if (folder / name).is_file()]
    files = named + sorted(folder.glob("*.py"))
    for file in files:
        refuse_link_outside(file)
    return files


def copy_companions(source: Path, target: Path) -> list[str]:
    """Copy `companions`; returns the names copied."""
    files = companions(source)
    for file in files:
        with disk_errors(target / file.name):
            shutil.copyfile(file, target / file.name)
    return [file.name for file in files]
