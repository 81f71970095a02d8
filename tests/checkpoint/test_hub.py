"""A model argument that is a folder, a Hub id (of a Hub on this machine), or neither."""

import time

import pytest
from huggingface_hub import constants
from loopback_hub import loopback_hub

from mindpress.checkpoint.hub import local_folder
from mindpress.errors import InputError, NetworkError

LONG = "x" * 300
NOWHERE = "http://127.0.0.1:9"  # the port of the discard service, which nobody runs
FILES = ("config.json", "model.safetensors", "tokenizer.model", "chat_template.jinja")
NOT_WANTED = ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "a.gguf")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    home = tmp_path / "hub" / "models" / "org" / "name" / "main"
    for name in (*FILES, *NOT_WANTED):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    with loopback_hub(tmp_path / "hub", tmp_path / "cache", monkeypatch) as asked:
        yield asked


def test_a_folder_is_itself(tmp_path, hub):
    assert local_folder(str(tmp_path)) == tmp_path
    assert hub == []


def test_an_id_is_downloaded_without_what_is_not_needed(hub):
    folder = local_folder("org/name")
    assert {str(file.relative_to(folder)) for file in folder.rglob("*")} == set(FILES)
    assert (folder / "config.json").read_text() == "config.json"


def test_the_download_directory(tmp_path, hub):
    assert (tmp_path / "here") in local_folder("org/name", download_dir=tmp_path / "here").parents
    assert hub


@pytest.mark.usefixtures("hub")
def test_a_downloaded_one_needs_no_hub(monkeypatch):
    first = local_folder("org/name")
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    assert local_folder("org/name") == first


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("org/other", None, "org/other: no such folder, and the Hub has no such repository"),
        ("org/name", "v9", "org/name: no such folder, and the Hub has no such revision"),
    ],
)
def test_what_the_hub_does_not_have(model, revision, message):
    with pytest.raises(NetworkError, match=message):
        local_folder(model, revision=revision)


@pytest.mark.parametrize("offline", [False, True], ids=["unreachable", "HF_HUB_OFFLINE"])
def test_without_a_hub_the_local_way_is_named_at_once(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    begin = time.monotonic()
    message = "HF_HUB_OFFLINE forbids" if offline else "the Hub cannot be reached"
    with pytest.raises(NetworkError, match=message) as caught:
        local_folder("org/name")
    assert time.monotonic() - begin < 5
    assert "path of a folder" in str(caught.value.hint)


@pytest.mark.parametrize(
    "model",
    [
        "nothing",
        "./nothing",
        "/nothing/here",
        "a/b/c",
        "~/nothing",
        "",
        "org/na me",
        "~nobody9/x",
        LONG,
    ],
)
def test_what_is_neither(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such folder|name is empty"):
        local_folder(model)


def test_a_file(tmp_path):
    (tmp_path / "model.gguf").write_text("x")
    with pytest.raises(InputError, match="is a file, expected a model folder"):
        local_folder(str(tmp_path / "model.gguf"))
