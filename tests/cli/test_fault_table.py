"""Every fault of an input ends a command with its exit code, and names the file and a next step."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mindpress.checkpoint.reader import INDEX
from mindpress.formats.quantized import QuantSpec
from tests.damaged_weights import damage
from tests.tiny_awq import quantize_folder
from tests.tiny_models import edit_config, save_tiny

SIZES = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
UP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def header(text: bytes, length: int | None = None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        size = len(text) if length is None else length
        (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text)

    return write


def index(content: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        text = content if isinstance(content, str) else json.dumps({"weight_map": content})
        (folder / INDEX).write_text(text)

    return write


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **changes)


def text_of_config(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(text) and None


def weights(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda folder: damage(folder, **{name: change})


def linked(folder: Path) -> None:
    outside = folder.with_name("outside.safetensors")
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def coded(**changes: object) -> Callable[[Path], None]:
    """In codes, with another quantization_config."""

    def write(folder: Path) -> None:
        quantize_folder(folder, QuantSpec(4, 32))
        told = json.loads((folder / "config.json").read_text())["quantization_config"]
        edit_config(folder, quantization_config=told | changes)

    return write


def not_a_number(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[3] = float("nan")
    return tensor


FAULTS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "truncated shard": (cut, 3, "model.safetensors: truncated or damaged"),
    "bad header": (header(b"[1, 2]"), 3, "model.safetensors: truncated or damaged"),
    "huge header": (header(b"{}", 2**63), 3, "model.safetensors: truncated or damaged"),
    "missing shard": (index({UP: "model-2.safetensors"}), 3, "the shard is missing"),
    "config has more layers": (config(num_hidden_layers=3), 3, "tensors are missing"),
    "config has fewer layers": (config(num_hidden_layers=1), 3, "do not belong to the model"),
    "wrong shape": (config(intermediate_size=128), 3, "is [64, 64], expected"),
    "int32 where floats": (weights(UP, lambda t: t.int()), 3, "torch.int32, expected 16 or"),
    "both 16-bit types": (weights(UP, lambda t: t.bfloat16()), 3, "others are torch.float16"),
    "NaN weight": (weights(UP, not_a_number), 6, "up_proj.weight`: NaN or infinite"),
    "path that leaves the folder": (index({UP: "../x.safetensors"}), 3, "leaves the folder"),
    "absolute path": (index({UP: "/etc/passwd"}), 3, "leaves the folder"),
    "link that leaves the folder": (linked, 3, "outside the folder"),
    "index that is no JSON": (index("{"), 3, f"{INDEX}: not readable as JSON"),
    "index of another type": (index(["x"]), 3, "`weight_map` is not a map"),
    "10,000 layers": (config(num_hidden_layers=10_000), 3, "`num_hidden_layers` is 10000"),
    "huge vocabulary": (config(vocab_size=10**9), 3, "`vocab_size` is 1000000000"),
    "huge width": (config(hidden_size=10**12), 3, "`hidden_size` is 1000000000000"),
    "huge number of heads": (config(num_attention_heads=10**9), 3, "`num_attention_heads` is"),
    "huge context": (config(max_position_embeddings=10**12), 3, "`max_position_embeddings` is"),
    "huge groups": (coded(group_size=10**18), 3, "in groups of 1000000000000000000 do not"),
    "number of 10 MB": (text_of_config('{"a": ' + "9" * 10**7 + "}"), 3, "not readable as JSON"),
    "deep nesting": (text_of_config('{"a":' * 500 + "1" + "}" * 500), 3, "levels deep"),
    "unknown method": (config(quantization_config={"quant_method": "hqq"}), 3, "method `hqq`"),
    "unknown family": (config(architectures=["NoSuchForCausalLM"]), 3, "NoSuchForCausalLM"),
    "pickle": (pickled, 3, "pytorch_model.bin` is a pickle"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "model", **SIZES)


def calibrate(run, folder, data="excerpt", *more):
    sizes = ("--calib-samples", 2, "--calib-seqlen", 32)
    target = folder.with_name("out")
    arguments = ("--calib-dataset", data, "--work-dir", target, *sizes, *more)
    ran = run("lite", "calibrate", "kv", folder, *arguments)
    assert ran.code == 0 or not target.exists()
    return ran


def said(ran) -> str:
    """stderr without the line breaks of the terminal."""
    return " ".join(ran.err.split())


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_model_ends_with_its_code(run, folder, name):
    spoil, code, words = FAULTS[name]
    spoil(folder)
    ran = calibrate(run, folder)
    assert ran.code == code
    error = said(ran).split("error: ")[1]
    assert words in error
    assert str(folder) in error
    assert "hint: " in error


DATA: dict[str, tuple[str, bytes, str]] = {
    "not UTF-8": ("a.txt", b"caf\xe9 " * 50, "not UTF-8 text"),
    "not JSON": ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2: not JSON"),
    "wrong fields": ("a.jsonl", b'{"body": "x"}\n', "no text in columns body"),
    "wrong type": ("a.jsonl", b'{"text": 5}\n', "`text` is of type int"),
    "deep nesting": ("a.jsonl", b'{"text":' + b"[" * 10**6, "line 1: not JSON"),
    "huge number": ("a.jsonl", b'{"text":' + b"9" * 10**6 + b"}", "line 1: not JSON"),
    "no parquet": ("a.parquet", b"PAR1" + bytes(100) + b"PAR1", "a.parquet"),
    "no gzip": ("a.jsonl.gz", b"\x1f\x8b" + bytes(50), "cannot be read"),
    "empty": ("a.txt", b"", "holds no text"),
}


@pytest.mark.parametrize("name", DATA)
def test_damaged_data_ends_with_three(run, folder, name):
    file, content, words = DATA[name]
    data = folder.with_name(file)
    data.write_bytes(content)
    ran = calibrate(run, folder, data, "--dry-run")
    assert ran.code == 3
    assert words in said(ran)
    assert str(data) in said(ran)


@pytest.fixture
def evil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that brings code along, which would leave a file; asking whether to run it fails."""
    ran = folder.with_name("ran")
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    edit_config(folder, auto_map=dict.fromkeys(names, "evil.Evil"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    return ran


def test_code_beside_a_known_family_is_not_run(run, folder, evil):
    assert calibrate(run, folder).code in (0, 3)
    assert run("inspect", folder).code == 0
    assert not evil.exists()


def test_code_of_a_tokenizer_is_not_run(run, folder, evil):
    file = folder / "tokenizer_config.json"
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    ran = calibrate(run, folder)
    assert ran.code == 3
    assert "code of its own, which is not run" in said(ran)
    assert "hint: " in said(ran)
    assert not evil.exists()
