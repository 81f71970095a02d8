"""A byte of the weights that changed on the disk is found wherever its hash is known."""

import shutil
from pathlib import Path

import pytest

from mindpress.lite.quantize import quantize_model
from tests.short_runs import recipe
from tests.tiny_models import save_tiny

SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("The river ran past the mill and the old bridge. " * 100)
    return file


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """What mindpress wrote: there is a manifest."""
    folder = tmp_path_factory.mktemp("flipped")
    model = save_tiny("llama", folder / "model", head_dim=128)
    return quantize_model(recipe(model, group_size=128), folder / "out").target


def flip(file: Path):
    """The lowest bit of the last byte."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def read_by(command, folder, text, target):
    other = folder.with_name("other")
    return {
        "convert": ("convert", folder, "--dst-path", target),
        "validate": ("validate", folder, "--dataset", text, "--seqlen", "64", "-o", target),
        "compare": ("compare", folder, other, "--against", other, "--dataset", text,
                    "--seqlen", "64", "-o", target),
        "calibrate": ("lite", "calibrate", folder, "--work-dir", target, "--calib-dataset", text,
                      "--calib-samples", "2", "--calib-seqlen", "32"),
    }[command]  # fmt: skip


@pytest.mark.parametrize("command", ["convert", "validate", "compare", "calibrate"])
def test_a_changed_weight_ends_the_command(run, quantized, text, tmp_path, command):
    damaged = tmp_path / "damaged"
    shutil.copytree(quantized, damaged)
    shutil.copytree(quantized, tmp_path / "other")
    flip(damaged / SHARD)
    ran = run(*read_by(command, damaged, text, tmp_path / "new"))
    assert ran.code == 3
    assert f"{damaged}: not as they were written (1 of 1 files): {SHARD} (changed)" in ran.err
    assert "hint: write or download the folder again" in ran.err
    assert not (tmp_path / "new").exists()


def test_a_link_to_itself_is_no_file_of_the_hubs(run, text, tmp_path):
    model = save_tiny("llama", tmp_path / "made")
    (model / "notes.txt").symlink_to("notes.txt")
    assert run(*read_by("calibrate", model, text, tmp_path / "new")).code == 0


def test_a_file_of_the_hubs_cache_is_compared_with_its_name(run, text, tmp_path):
    """As huggingface_hub lays a snapshot out: links to blobs named by their SHA-256."""
    from mindpress.checkpoint.manifest import file_digest

    model = save_tiny("llama", tmp_path / "made")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "1", tmp_path / "hub" / "blobs"
    shutil.copytree(model, snapshot)
    blobs.mkdir()
    blob = blobs / file_digest(snapshot / SHARD)
    shutil.move(snapshot / SHARD, blob)
    (snapshot / SHARD).symlink_to(blob)
    calibrate = read_by("calibrate", snapshot, text, tmp_path / "new")
    flip(blob)
    assert run(*calibrate).code == 3
    flip(blob)
    assert run(*calibrate).code == 0
