"""Documents out of .txt, .jsonl (also gzipped) and .parquet files, one at a time."""

import gzip
import json
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, cast

from mindpress.errors import InputError

ENDINGS = (".txt", ".jsonl", ".parquet", ".jsonl.gz", ".json.gz")
# Where a row keeps its text; `messages` is a chat, whose contents are joined by line breaks.
TEXT_KEYS = ("text", "content", "sentence")
CHAT_KEY = "messages"
LONGEST_LINE = 64 * 2**20
BLOCK = 2**20
ROWS_AT_ONCE = 256
UTF8_HINT = "convert it: iconv -f latin1 -t utf-8 FILE > NEW.txt"


def documents(file: Path) -> Iterator[str]:
    """The documents of `file` in order: the blocks of a .txt, the rows of the others.

    A .txt comes in pieces of 1 Mi characters that join to its text; of other files empty
    documents are left out. Peak memory is one piece or row group. InputError names the line.
    """
    check_text_file(file)
    reader = _blocks if file.suffix == ".txt" else _rows
    if file.suffix == ".parquet":
        reader = _parquet
    try:
        yield from reader(file)
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise InputError(f"{file}: not UTF-8 text (byte 0x{wrong:02x})", hint=UTF8_HINT) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None


def check_text_file(file: Path) -> None:
    """Refuse a path that is missing, a folder, or of a kind that is not read."""
    if not file.exists():
        raise InputError(f"{file}: no such file", hint="check the path")
    if not file.is_file():
        hint = f"name a file: {', '.join(ENDINGS[:3])}"
        raise InputError(f"{file}: is {'a folder' if file.is_dir() else 'no file'}", hint=hint)
    if not file.name.endswith(ENDINGS):
        raise InputError(f"{file}: not a text file", hint=f"known endings: {', '.join(ENDINGS)}")


def _blocks(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as stream:
        while block := stream.read(BLOCK):
            yield block


def _rows(file: Path) -> Iterator[str]:
    with _open_lines(file) as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise InputError(f"{file}: line {number} is longer than {LONGEST_LINE >> 20} MiB")
            if line.strip() and (text := _text_of_line(f"{file}: line {number}", line)):
                yield text


def _open_lines(file: Path) -> TextIOWrapper:
    if file.suffix == ".gz":
        return cast(TextIOWrapper, gzip.open(file, "rt", encoding="utf-8-sig"))
    return file.open(encoding="utf-8-sig")


def _text_of_line(where: str, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}", hint="one object a line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: holds {type(row).__name__}, expected an object")
    return _text_of_row(where, row)


def _text_of_row(where: str, row: dict[str, Any]) -> str:
    key = _text_key(where, list(row))
    value = _joined_chat(where, row[key]) if key == CHAT_KEY else row[key]
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: `{key}` is of type {type(value).__name__}, expected text")
    return _without_surrogates(value or "")


def _without_surrogates(text: str) -> str:
    """JSON can spell half a character ("\\ud83d"), which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _joined_chat(where: str, chat: object) -> str:
    turns = chat if isinstance(chat, list) else []
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    if not contents or not all(isinstance(content, str) for content in contents):
        raise InputError(f"{where}: `{CHAT_KEY}` is no list of objects with a text `content`")
    return "\n".join(cast(list[str], contents))


def _text_key(where: str, keys: list[str]) -> str:
    """The first of the known text columns that there is."""
    for key in (*TEXT_KEYS, CHAT_KEY):
        if key in keys:
            return key
    there = ", ".join(keys[:8]) or "nothing"
    wanted = ", ".join((*TEXT_KEYS, CHAT_KEY))
    raise InputError(f"{where}: no text in columns {there}", hint=f"name the text one of: {wanted}")


def _parquet(file: Path) -> Iterator[str]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(file) as table:
            key = _text_key(str(file), table.schema_arrow.names)
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=[key]):
                for value in batch.column(0).to_pylist():
                    if text := _text_of_row(str(file), {key: value}):
                        yield text
    except arrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: damaged or not a parquet file: {reason}") from None
