"""Tokenizers that are missing, damaged or code of their own."""

import json
from pathlib import Path

import pytest
from tiny_models import TOKENIZER, TOKENIZER_FILES

from mindpress.checkpoint.companions import (
    check_tokenizer_files,
    copy_companions,
    load_tokenizer,
)
from mindpress.errors import InputError, ResourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in TOKENIZER_FILES:
        (folder / name).write_bytes((TOKENIZER / name).read_bytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def test_a_tokenizer_with_its_template(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer("Hello")["input_ids"], skip_special_tokens=True) == "Hello"
    assert tokenizer.chat_template


def test_no_tokenizer(tmp_path):
    for call in (check_tokenizer_files, load_tokenizer):
        with pytest.raises(InputError, match=r"no tokenizer \(tokenizer\.json") as caught:
            call(tmp_path)
        assert "copy the tokenizer files" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b""),
        ("tokenizer.json", b'{"version": "1.0"}'),
        ("tokenizer.json", b"\xff\xfe\x00"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"{"),
    ],
)
def test_a_damaged_one(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="the tokenizer cannot be read") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_code_of_its_own_is_not_run_and_nothing_is_asked(folder, monkeypatch, tmp_path):
    """transformers would ask on stdin whether to run it."""
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    with pytest.raises(InputError, match="code of its own") as caught:
        load_tokenizer(folder)
    assert "--trust-remote-code" in str(caught.value.hint)
    assert not ran.exists()


def test_what_goes_with_a_model(folder, tmp_path):
    (folder / "modeling_x.py").write_text("code")
    (folder / "generation_config.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    target = tmp_path / "out"
    target.mkdir()
    copied = copy_companions(folder, target)
    expected = {*TOKENIZER_FILES, "generation_config.json", "modeling_x.py"}
    assert set(copied) == expected == {file.name for file in target.iterdir()}


def test_a_place_that_takes_no_files(folder):
    with pytest.raises(ResourceError, match=r"cannot write /proc/tokenizer\.json"):
        copy_companions(folder, Path("/proc"))


@pytest.mark.parametrize("change", [{"model_max_length": "512"}, {"model_max_length": [1]}])
def test_a_tokenizer_that_only_fails_when_it_is_used(folder, change):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match="the tokenizer cannot be read"):
        load_tokenizer(folder)


def test_a_panic_of_the_library_is_a_damaged_tokenizer(folder, monkeypatch):
    """What its Rust code raises is no Exception, so that nobody catches it by mistake."""
    panic = type("PanicException", (BaseException,), {})

    def fail(*_, **__):
        raise panic("index out of bounds")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(InputError, match="cannot be read: index out of bounds"):
        load_tokenizer(folder)


def test_a_file_of_this_machine_does_not_get_into_the_output(folder, tmp_path):
    """A downloaded folder can hold links, and outputs are uploaded."""
    (tmp_path / "secret").write_text("key")
    (folder / "merges.txt").symlink_to(tmp_path / "secret")
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(InputError, match=r"merges\.txt: links to .*secret, outside the folder"):
        copy_companions(folder, target)


def test_a_tokenizer_config_cannot_name_a_file_elsewhere(folder, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][0]["content"] = "<elsewhere>"
    (tmp_path / "other.json").write_text(json.dumps(content))
    file = folder / "tokenizer_config.json"
    for key in ("tokenizer_file", "vocab_file"):
        settings = json.loads(file.read_text()) | {key: str(tmp_path / "other.json")}
        file.write_text(json.dumps(settings))
        assert "<elsewhere>" not in load_tokenizer(folder).get_vocab()
