"""What the drivers of rivals share: command line, tokens, tokenizer files, and a last line of JSON.

A driver is `NAME_quantize.py MODEL TOKENS.safetensors TARGET`, run by the Python of a virtual
environment that has `NAME-requirements.txt`. This file needs no more than those have.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """The arguments of every driver; a driver may add flags."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("tokens", type=Path, help="safetensors file with int64 `tokens`")
    parser.add_argument("out", type=Path, help="folder to write, which must not exist")
    return parser


def drive(
    args: argparse.Namespace, packages: tuple[str, ...], quantize: Callable[[torch.Tensor], Any]
) -> None:
    """Call `quantize` with the tokens; copy the tokenizer; print seconds and versions.

    The seconds are those of the call: without imports, which the caller can time with the process.
    """
    if args.out.exists():
        raise SystemExit(f"{args.out} exists already")
    tokens = load_tokens(args.tokens)
    wall, cpu = time.perf_counter(), time.process_time()
    quantize(tokens)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    copy_tokenizer(args.model, args.out)
    seconds = {"quantize_wall_seconds": round(wall, 1), "quantize_cpu_seconds": round(cpu, 1)}
    versions = {name: version(name) for name in (*packages, "torch", "transformers")}
    print(json.dumps({**seconds, "versions": versions}))


def load_tokens(path: Path) -> torch.Tensor:
    """The int64 tensor `tokens` of shape [samples, length]."""
    tokens = load_file(path)["tokens"]
    if tokens.ndim != 2 or tokens.dtype != torch.int64:
        raise SystemExit(
            f"tokens must be int64 [samples, length], got {tokens.dtype} {tokens.ndim}-D"
        )
    return tokens


def copy_tokenizer(model: Path, out: Path) -> None:
    """Copy the tokenizer files as they are: some rivals save none, some rewrite them."""
    for pattern in TOKENIZER_FILES:
        for file in model.glob(pattern):
            shutil.copyfile(file, out / file.name)
