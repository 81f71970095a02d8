"""Damaged and hostile folders are refused in one line, before anything is done with them."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mindpress.checkpoint.reader import INDEX, check_tensors, open_checkpoint, read_json
from mindpress.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards and their index, as the Hub has them."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.arange(6.0).view(2, 3)}, folder / "model-1.safetensors")
    save_file({"b": torch.ones(4, dtype=torch.bfloat16)}, folder / "model-2.safetensors")
    write_index(folder, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_tensors_are_read_one_by_one(folder):
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.tensors) == {"a", "b"}
    assert checkpoint.tensors["a"].shape == (2, 3)
    assert checkpoint.nbytes == 6 * 4 + 4 * 2
    assert torch.equal(checkpoint.tensor("a"), torch.arange(6.0).view(2, 3))
    assert checkpoint.tensor("b").dtype == torch.bfloat16


def test_a_tensor_belongs_to_the_caller(folder):
    """Writing to it changes neither the file nor the next read."""
    checkpoint = open_checkpoint(folder)
    checkpoint.tensor("a").fill_(7)
    assert checkpoint.tensor("a").sum() == 15


def test_without_an_index_every_shard_is_read(folder):
    (folder / INDEX).unlink()
    assert set(open_checkpoint(folder).tensors) == {"a", "b"}


def test_a_second_copy_of_the_weights_is_left_alone(folder):
    """Mistral's repositories hold consolidated.safetensors beside model.safetensors."""
    (folder / INDEX).unlink()
    (folder / "model-1.safetensors").rename(folder / "consolidated.safetensors")
    (folder / "model-2.safetensors").rename(folder / "model.safetensors")
    assert set(open_checkpoint(folder).tensors) == {"b"}


@pytest.mark.parametrize("left", [0, 4, 8, 40, -1], ids=lambda size: f"{size} bytes")
def test_a_truncated_shard(folder, left):
    shard = folder / "model-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:left])
    error = refusal(folder)
    assert "model-2.safetensors: truncated or damaged" in str(error)
    assert error.hint == "download the file again"


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff" * 8,  # a header of 2**64 bytes
        (10**9).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (9).to_bytes(8, "little") + b"\xff" * 9,
        b"<html>404 not found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
    ids=["huge", "long", "list", "null", "bytes", "html", "git-lfs"],
)
def test_a_damaged_header(folder, damage):
    (folder / "model-1.safetensors").write_bytes(damage)
    assert "model-1.safetensors: truncated or damaged" in str(refusal(folder))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 999]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]},
        {"dtype": "F32", "shape": [99999, 99999], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 24]},
        {"dtype": "X99", "shape": [2, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 24]},
    ],
    ids=["past the end", "a hole", "too small", "overflow", "unknown type", "negative"],
)
def test_a_header_that_lies(folder, entry):
    header = json.dumps({"a": entry}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(24)
    (folder / "model-1.safetensors").write_bytes(whole)
    assert "model-1.safetensors" in str(refusal(folder))


def test_a_shard_cut_while_it_is_read(folder):
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model-1.safetensors", 90)
    with pytest.raises(InputError, match=r"model-1\.safetensors: `a`"):
        checkpoint.tensor("a")


def test_a_missing_shard(folder):
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors: the shard is missing" in str(refusal(folder))


def test_a_tensor_that_only_the_index_knows(folder):
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    write_index(folder, {**weight_map, "c": "model-2.safetensors"})
    assert "tensors are missing (1): c" in str(refusal(folder))


def test_a_tensor_in_two_shards(folder):
    (folder / INDEX).unlink()
    shutil.copyfile(folder / "model-1.safetensors", folder / "model-3.safetensors")
    assert "`a` stands in two shards" in str(refusal(folder))


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        "",
        "./a.safetensors",
        "x" * 300,
        "\0",
        "\ud800",
    ],
)
def test_an_index_that_leaves_the_folder(folder, name):
    save_file({"b": torch.ones(4)}, folder.parent / "secret.safetensors")
    write_index(folder, {"a": "model-1.safetensors", "b": name})
    error = str(refusal(folder))
    assert "leaves the folder" in error or "shard is missing" in error


def test_a_shard_linked_from_outside(folder):
    outside = folder.parent / "outside.safetensors"
    (folder / "model-2.safetensors").rename(outside)
    (folder / "model-2.safetensors").symlink_to(outside)
    assert "outside the folder" in str(refusal(folder))


def test_a_snapshot_of_the_hub_cache(folder, tmp_path):
    """models--org--name/snapshots/REVISION/file -> ../../blobs/HASH."""
    home = tmp_path / "models--org--name"
    (home / "blobs").mkdir(parents=True)
    snapshot = home / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(home / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert set(open_checkpoint(snapshot).tensors) == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not readable as JSON"),
        (b"", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"1" * 5000, "not readable as JSON"),
        (b"[1]", "holds a list, expected an object"),
        (b"null", "holds a NoneType, expected an object"),
        (b"{}", "`weight_map` is not a map"),
        (b'{"weight_map": ["a"]}', "`weight_map` is not a map"),
        (b'{"weight_map": {"a": 5}}', "`weight_map` is not a map"),
        (b'{"weight_map": {}}', "`weight_map` is empty"),
    ],
)
def test_an_index_that_is_no_index(folder, content, message):
    (folder / INDEX).write_bytes(content)
    error = str(refusal(folder))
    assert INDEX in error
    assert message in error


def test_a_huge_json_is_not_read(tmp_path):
    file = tmp_path / "config.json"
    with file.open("wb") as stream:
        stream.truncate(2**40)  # a hole: takes no space
    with pytest.raises(InputError, match="larger than 64 MiB"):
        read_json(file)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "x.ckpt"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02")
    error = refusal(tmp_path)
    assert f"`{name}` is a pickle" in str(error)
    assert "save_pretrained" in str(error.hint)


def test_a_folder_without_weights(tmp_path):
    assert "no .safetensors file" in str(refusal(tmp_path))
    assert "no such folder" in str(refusal(tmp_path / "missing"))


EXPECTED = {"a": (2, 3), "b": (4,)}


class TestCheckTensors:
    def test_what_fits_passes(self, folder):
        check_tensors(open_checkpoint(folder), EXPECTED)

    def test_missing_ones_are_counted_and_the_first_named(self, folder):
        more = {f"layer.{number}": (1,) for number in range(7)}
        with pytest.raises(InputError, match=r"missing \(7\): layer.0, .*layer.4 \.\.\.$"):
            check_tensors(open_checkpoint(folder), {**EXPECTED, **more})

    def test_extra_ones(self, folder):
        with pytest.raises(InputError, match=r"do not belong to the model .* \(1\): b"):
            check_tensors(open_checkpoint(folder), {"a": (2, 3)})
        check_tensors(open_checkpoint(folder), {"a": (2, 3)}, ignored=("b",))

    def test_another_shape(self, folder):
        with pytest.raises(InputError, match=r"model-1\S+: `a` is \[2, 3\], expected \[3, 2\]"):
            check_tensors(open_checkpoint(folder), {**EXPECTED, "a": (3, 2)})

    @pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.float8_e4m3fn, torch.bool])
    def test_another_type(self, folder, dtype):
        save_file({"b": torch.ones(4).to(dtype)}, folder / "model-2.safetensors")
        with pytest.raises(InputError, match=f"model-2.safetensors: `b` is {dtype}"):
            check_tensors(open_checkpoint(folder), EXPECTED)

    def test_both_16_bit_types(self, folder):
        """Nothing but the header says which of them a tensor is."""
        save_file({"a": torch.ones(2, 3).half()}, folder / "model-1.safetensors")
        with pytest.raises(InputError, match=r"`\w` is torch.\w+, and 1 others are torch"):
            check_tensors(open_checkpoint(folder), EXPECTED)


def test_deep_nesting_is_refused_before_somebody_walks_it(tmp_path):
    file = tmp_path / "config.json"
    for depth, fine in ((60, True), (70, False), (900, False)):
        file.write_text('{"a":' * depth + "1" + "}" * depth)
        if fine:
            assert read_json(file)
            continue
        with pytest.raises(InputError, match="nested more than 64 levels"):
            read_json(file)


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json: is no file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused(tmp_path, word):
    (tmp_path / "config.json").write_text(f'{{"resid_pdrop": {word}}}')
    with pytest.raises(InputError, match=f"{word} is no number of JSON"):
        read_json(tmp_path / "config.json")
