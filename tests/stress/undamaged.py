"""Small inputs of every kind, written by the real programs: what `mutate` damages."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import torch

from mindpress.calib.statistics_file import save_statistics
from mindpress.calib.statistics_header import StatisticsHeader
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.compressed_tensors import CompressedLayout
from mindpress.formats.gptq import GptqLayout
from mindpress.formats.quantized import QuantSpec
from tests.tiny_awq import quantize_folder
from tests.tiny_coded import code_folder
from tests.tiny_models import FAMILIES, TOKENIZER, save_tiny
from tests.tiny_ranges import random_ranges

WORDS_KEPT = 300
SIZES: dict[str, Any] = {
    "vocab_size": WORDS_KEPT,
    "hidden_size": 64,
    "intermediate_size": 64,
    "tokenizer": False,
}
HEADS: dict[str, dict[str, Any]] = {family: {"head_dim": 16} for family in FAMILIES} | {
    "qwen2": {},
    "phi3": {},
}
# LMDeploy's engines know heads of 128 channels.
SERVED: dict[str, Any] = {
    "vocab_size": WORDS_KEPT,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "head_dim": 128,
    "num_hidden_layers": 1,
    "tokenizer": False,
}
SYMMETRIC = QuantSpec(4, 32, symmetric=True)
CODED: dict[str, Callable[[Path], object]] = {
    "awq": lambda folder: quantize_folder(folder, QuantSpec(4, 32)),
    "gptq": lambda folder: code_folder(folder, GptqLayout(SYMMETRIC)),
    "packed": lambda folder: code_folder(folder, CompressedLayout(QuantSpec(4, 32))),
    "int8": lambda folder: code_folder(
        folder, CompressedLayout(QuantSpec(8, -1, symmetric=True), "int-quantized")
    ),
}
HEADER = StatisticsHeader(
    model="org/model", signature="2x2x8x64x300:abcd", family="LlamaForCausalLM", layers=2,
    kv_heads=2, head_dim=8, dataset="excerpt", samples=4, length=16, seed=1,
    linears={"mlp.up_proj": (16, 24)}, clamped=(1,), versions={"mindpress": "0.1.0"},
)  # fmt: skip
ROWS = [{"text": f"The river was wide, {number} é 😀."} for number in range(40)]


def write_inputs(home: Path) -> None:
    """A folder for every kind of input below `home`."""
    for family in FAMILIES:
        _with_tokenizer(save_tiny(family, home / family, **SIZES, **HEADS[family]))
    _with_tokenizer(save_tiny("llama", home / "sharded", max_shard_size="60KB", **SIZES))
    for name, code in CODED.items():
        code(_with_tokenizer(save_tiny("llama", home / name, num_hidden_layers=1, **SIZES)))
    _workspaces(home)
    _statistics(home / "statistics")
    _texts(home / "texts")


def _with_tokenizer(folder: Path) -> Path:
    """The tokenizer of the demo, of which the commonest tokens are kept."""
    tokenizer = json.loads((TOKENIZER / "tokenizer.json").read_text())
    model = tokenizer["model"]
    model["vocab"] = {word: n for word, n in model["vocab"].items() if n < WORDS_KEPT}
    model["merges"] = [
        pair for pair in model["merges"] if {*pair, "".join(pair)} <= model["vocab"].keys()
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    return folder


def _workspaces(home: Path) -> None:
    plain = _with_tokenizer(save_tiny("llama", home / "served", **SERVED))
    awq = _with_tokenizer(save_tiny("llama", home / "served-awq", **SERVED))
    quantize_folder(awq, QuantSpec(4, 128))
    ranges, cache = random_ranges(1), CacheSpec(8, granularity="tensor")
    fine = CacheSpec(8, granularity="head")
    for target, source, version, tp, spec in (
        ("ini", plain, "0.3", 2, cache), ("ini-int4", awq, "0.5", 1, fine),
        ("yaml", plain, "0.6", 2, None),
    ):  # fmt: skip
        settings = Conversion(str(source), home / target, tp=tp, tm_version=version, cache=spec)
        convert_model(settings, calibrate=(lambda *_: (ranges, {})) if spec else None)


def _statistics(folder: Path) -> None:
    folder.mkdir()
    layer = {name: torch.zeros(size) for name, size in HEADER.layer_shapes().items()}
    save_statistics(folder, HEADER, [layer] * HEADER.layers)


def _texts(folder: Path) -> None:
    _with_tokenizer(save_tiny("llama", folder, **SIZES))
    lines = "\n".join(map(json.dumps, ROWS))
    chats = [{"messages": [{"role": "user", "content": row["text"]}]} for row in ROWS]
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    (folder / "plain.txt").write_text("\n".join(row["text"] for row in ROWS), encoding="utf-8")
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    parquet.write_table(arrow.Table.from_pylist(ROWS), folder / "rows.parquet")
