"""A journal is taken up by the same request on the same input, and refused by any other."""

import json
import os
import struct
from pathlib import Path

import pytest

from mindpress.checkpoint.journal import Journal, fingerprint
from mindpress.errors import ConfigError, InputError

STATE = {"layers": [1, 2]}


def shard(file: Path, header: bytes = b"{}      ", data: bytes = b"abcd") -> Path:
    file.write_bytes(struct.pack("<Q", len(header)) + header + data)
    os.utime(file, ns=(1, 1))
    return file


@pytest.fixture
def model(tmp_path: Path) -> list[Path]:
    (tmp_path / "tokenizer.json").write_text("{}")
    return [tmp_path / "tokenizer.json", shard(tmp_path / "model.safetensors")]


def test_what_is_saved_is_found_by_the_same_request(tmp_path):
    assert Journal(tmp_path, "a").load() is None
    Journal(tmp_path, "a").save({"layers": []})
    Journal(tmp_path, "a").save(STATE)
    assert Journal(tmp_path, "a").load() == STATE
    assert [file.name for file in tmp_path.iterdir()] == ["journal.json"]


def test_another_request_is_refused_with_a_choice(tmp_path):
    Journal(tmp_path, "a").save(STATE)
    with pytest.raises(ConfigError, match="other settings or another model") as caught:
        Journal(tmp_path, "b").load()
    assert "--overwrite" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "{half", "[]", "3", '{"fingerprint": "a"}', "\xff"])
def test_a_damaged_one_is_refused_with_a_choice(tmp_path, text):
    (tmp_path / "journal.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="is damaged") as caught:
        Journal(tmp_path, "a").load()
    assert "--overwrite" in str(caught.value.hint)


def test_settings_and_every_file_count(model, tmp_path):
    known = fingerprint("settings", files=model)
    assert fingerprint("settings", files=reversed(model)) == known
    assert fingerprint("others", files=model) != known
    assert fingerprint("settings", files=model[:1]) != known


def test_small_files_count_by_what_is_in_them(model):
    known = fingerprint(files=model)
    os.utime(model[0], ns=(5, 5))
    assert fingerprint(files=model) == known
    model[0].write_text("[]")
    assert fingerprint(files=model) != known


@pytest.mark.parametrize(
    "change",
    [lambda file: shard(file, header=b"{ }     "), lambda file: shard(file, data=b"abcde"),
     lambda file: os.utime(file, ns=(5, 5))],
    ids=["header", "size", "time"],
)  # fmt: skip
def test_shards_count_by_header_size_and_time(model, change):
    known = fingerprint(files=model)
    change(model[1])
    assert fingerprint(files=model) != known


def test_a_header_of_absurd_length_is_read_in_part(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**62) + json.dumps({}).encode())
    assert fingerprint(files=[file])
