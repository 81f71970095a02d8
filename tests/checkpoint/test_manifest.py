"""A manifest tells what a folder held; commands compare sizes, --verify compares hashes."""

import json
from pathlib import Path

import pytest

from mindpress.checkpoint.manifest import (
    NAME,
    build_manifest,
    changing,
    check_sizes,
    load_manifest,
    write_manifest,
)
from mindpress.checkpoint.verify import verify
from mindpress.errors import InputError

DIGEST = "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"  # of b"ab"
BLOB = "9ae9e86b7bd6cb1472d9373702d8249973da0832"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What mindpress wrote, with its manifest."""
    home = tmp_path / "out"
    (home / "triton_models" / "weights").mkdir(parents=True)
    (home / "triton_models" / "weights" / "config.ini").write_text("[llama]")
    (home / "triton_models" / "weights" / "norm.weight").write_bytes(b"cd")
    (home / "model.safetensors").write_bytes(b"ab")
    (home / "README.md").write_text("a model")
    write_manifest(home, build_manifest(home))
    return home


def test_it_names_every_file_with_its_size_and_hash(folder):
    found = json.loads((folder / NAME).read_text())
    assert found["files"]["model.safetensors"] == {"bytes": 2, "sha256": DIGEST}
    assert list(found["files"]) == [
        "README.md", "model.safetensors", "triton_models/weights/config.ini",
        "triton_models/weights/norm.weight",
    ]  # fmt: skip
    assert verify(folder) == 4


def test_a_hash_that_is_known_is_not_computed_again(folder):
    assert build_manifest(folder, {"README.md": "0" * 64})["README.md"].sha256 == "0" * 64


@pytest.mark.parametrize("name", ["model.safetensors", "triton_models/weights/norm.weight"])
@pytest.mark.parametrize("data", [b"abc", None])
def test_weights_of_another_size_are_refused_at_once(folder, name, data):
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name}: (is missing|has 3 bytes)"):
        check_sizes(folder)


@pytest.mark.parametrize("name", ["README.md", "triton_models/weights/config.ini"])
def test_what_a_user_edits_is_told_by_verify_alone(folder, name):
    (folder / name).write_text("edited")
    check_sizes(folder)
    with pytest.raises(InputError, match=rf"1 of 4 files\): {name} \(.* bytes, not") as caught:
        verify(folder)
    assert "delete manifest.json" in str(caught.value.hint)


def test_one_flipped_bit_is_found(folder):
    (folder / "model.safetensors").write_bytes(b"aB")
    check_sizes(folder)
    with pytest.raises(InputError, match=r"model\.safetensors \(changed\)"):
        verify(folder)


def test_a_folder_of_which_nothing_is_known_says_so(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"ab")
    check_sizes(tmp_path)
    with pytest.raises(InputError, match="nothing is known"):
        verify(tmp_path)


def test_a_manifest_of_another_program_is_left_alone(tmp_path):
    (tmp_path / NAME).write_text('{"name": "a web page"}')
    assert load_manifest(tmp_path) is None
    check_sizes(tmp_path)


@pytest.mark.parametrize(
    "files",
    [[], {"a": {}}, {"a": {"bytes": "2", "sha256": DIGEST}}, {"a": {"bytes": 2, "sha256": 5}},
     *({name: {"bytes": 2, "sha256": DIGEST}} for name in ("../a", "/etc/passwd", "x/../../a"))],
    ids=str,
)  # fmt: skip
def test_a_damaged_one_is_named(folder, files):
    text = (folder / NAME).read_text()
    (folder / NAME).write_text(json.dumps({**json.loads(text), "files": files}))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        check_sizes(folder)


def test_the_hub_names_files_by_their_hashes(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / DIGEST).write_bytes(b"ab")
    (blobs / BLOB).write_bytes(b"ab")
    (snapshot / "model.safetensors").symlink_to(blobs / DIGEST)
    (snapshot / "config.json").symlink_to(blobs / BLOB)
    assert verify(snapshot) == 2
    (blobs / BLOB).write_bytes(b"aB")
    (blobs / DIGEST).write_bytes(b"aB")
    with pytest.raises(InputError, match=r"2 of 2 files\): config.json \(changed\), model"):
        verify(snapshot)


def test_files_that_are_being_changed_are_not_in_it(folder):
    """So a run that is killed meanwhile leaves a folder that can be read, and changed again."""
    config, new = folder / "triton_models/weights/config.ini", folder / "triton_models/new.bin"
    with changing(folder, [config, new, folder / "README.md"]):
        assert len(load_manifest(folder) or {}) == 2
        config.write_text("[llama] longer")
        new.write_bytes(b"ab")
        (folder / "README.md").unlink()
    assert verify(folder) == 4
    assert (load_manifest(folder) or {})["triton_models/new.bin"].sha256 == DIGEST
