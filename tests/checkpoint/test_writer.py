"""What ShardWriter writes is read by safetensors, and is the same after an interruption."""

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from mindpress.checkpoint.reader import INDEX, open_checkpoint
from mindpress.checkpoint.writer import ShardWriter, parse_size
from mindpress.errors import ConfigError, InputError, ResourceError

TENSORS = {
    "one": torch.tensor([1.5], dtype=torch.float16),
    "odd": torch.arange(7, dtype=torch.int32),
    "scalar": torch.tensor(3.0),
    "none": torch.empty(0, 4),
    "bits": torch.tensor([True, False, True]),
    "turned": torch.arange(12.0).view(3, 4).t(),
    "brain": torch.randn(5, 3).bfloat16(),
    "bytes": torch.arange(9, dtype=torch.uint8),
    "long": torch.tensor([2**60]),
    'nämé "quoted"': torch.ones(2),
}
KEPT_OPEN = 10**9


def write(folder: Path, tensors: dict[str, torch.Tensor], limit: int = KEPT_OPEN) -> Path:
    folder.mkdir(exist_ok=True)
    writer = ShardWriter(folder, list(tensors), limit)
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    writer.finish()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
        for name in first
    )


@pytest.mark.parametrize("options", [{}, {"backend": "pread"}], ids=["mmap", "pread"])
def test_safetensors_reads_it(tmp_path, options):
    """Also where a tensor begins at an odd byte, which safetensors' own writer avoids."""
    file = write(tmp_path / "out", TENSORS) / "model.safetensors"
    with safe_open(file, "pt", **options) as shard:
        assert equal({name: shard.get_tensor(name) for name in shard.keys()}, TENSORS)  # noqa: SIM118
        assert shard.metadata() == {"format": "pt"}


def test_shards_stay_below_the_limit(tmp_path):
    tensors = {f"t{number}": torch.full((100,), float(number)) for number in range(10)}
    folder = write(tmp_path / "out", tensors, limit=1000)
    shards = sorted(folder.glob("*.safetensors"))
    names = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    assert [shard.name for shard in shards] == names
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == 4000
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(folder / file)[name], tensors[name])
    assert set(open_checkpoint(folder).tensors) == set(tensors)


def test_a_tensor_above_the_limit_has_a_shard_of_its_own(tmp_path):
    tensors = {"small": torch.ones(10), "large": torch.ones(1000), "last": torch.ones(10)}
    folder = write(tmp_path / "out", tensors, limit=200)
    assert len(list(folder.glob("*.safetensors"))) == 3


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    limit=st.integers(1, 900),
    stop=st.integers(0, 12),
)
@settings(max_examples=40, deadline=None)
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path_factory, sizes, limit, stop):
    tensors = {f"t{n}": torch.arange(size, dtype=torch.int16) for n, size in enumerate(sizes)}
    names = list(tensors)
    whole = write(tmp_path_factory.mktemp("whole"), tensors, limit)
    part = tmp_path_factory.mktemp("part")
    first = ShardWriter(part, names, limit)
    for name in names[:stop]:
        first.write(name, tensors[name])
    state = json.loads(json.dumps(first.state))
    for name in names[stop:][:3] or names[:1]:  # written, but killed before the journal was
        first.write(name, torch.ones(400))
    second = ShardWriter(part, names, limit)
    second.resume(state)
    for name in names[stop:]:
        second.write(name, tensors[name])
    second.finish()
    assert contents(part) == contents(whole)


def test_a_run_resumed_after_nothing_but_an_empty_tensor(tmp_path):
    first = ShardWriter(tmp_path, ["a"], KEPT_OPEN)
    first.write("a", torch.empty(0, 4))
    second = ShardWriter(tmp_path, ["a"], KEPT_OPEN)
    second.resume(first.state)
    second.finish()
    assert equal(load_file(tmp_path / "model.safetensors"), {"a": torch.empty(0, 4)})


@pytest.mark.parametrize("survives", range(4))
def test_a_run_killed_while_it_names_its_shards(tmp_path, monkeypatch, survives):
    tensors = {f"t{number}": torch.full((100,), float(number)) for number in range(6)}
    whole = write(tmp_path / "whole", tensors, limit=800)
    part = tmp_path / "part"
    part.mkdir()
    writer = ShardWriter(part, list(tensors), 800)
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    renames = []

    def rename(self: Path, target: Path, original=Path.rename) -> Path:
        if len(renames) == survives:
            raise KeyboardInterrupt
        renames.append(target)
        return original(self, target)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", rename)
        writer.finish()
    again = ShardWriter(part, list(tensors), 800)
    again.resume(writer.state)
    again.finish()
    assert contents(part) == contents(whole)


def test_what_a_killed_run_left_is_not_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000.safetensors").write_bytes(b"x" * 10_000)
    assert equal(load_file(write(tmp_path / "out", TENSORS) / "model.safetensors"), TENSORS)


@pytest.mark.parametrize("damage", ["shorter", "gone", "flipped"])
def test_an_unfinished_output_that_lost_something_is_refused(tmp_path, damage):
    writer = ShardWriter(tmp_path, ["a"], KEPT_OPEN)
    writer.write("a", torch.ones(100))
    shard = tmp_path / "part-00000.safetensors"
    if damage == "flipped":
        shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    else:
        os.truncate(shard, 300) if damage == "shorter" else shard.unlink()
    with pytest.raises(InputError, match="the unfinished output is damaged") as caught:
        ShardWriter(tmp_path, ["a"], KEPT_OPEN).resume(writer.state)
    assert "--overwrite" in str(caught.value.hint)


def test_the_mode_follows_the_umask(tmp_path):
    """safetensors' own writer makes files that only their owner can read."""
    before = os.umask(0o022)
    try:
        folder = write(tmp_path / "out", TENSORS, limit=10)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("moment", ["write", "finish"])
def test_a_full_disk(tmp_path, moment):
    """/dev/full takes no byte: every write ends with ENOSPC."""
    writer = ShardWriter(tmp_path, ["a", "b"], KEPT_OPEN)
    writer.write("a", torch.ones(10))
    part = tmp_path / "part-00000.safetensors"
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"part-00000.*" + os.strerror(errno.ENOSPC)) as caught:
        writer.finish() if moment == "finish" else writer.write("b", torch.ones(10**6))
    assert "free some space" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), (" 2gib ", 2**31), ("1.5kb", 1500), ("77", 77)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "0", "-1GB", "5XB", "nan", "inf", "infGB", "1e999", "0.1"]
)
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match="--max-shard-size"):
        parse_size(text)
