"""How far an output is from its original: perplexity, KL and agreement on windows of a text."""

from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from mindpress.calib.datasets import read_text
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import Windows, cut_windows, score_windows
from mindpress.sources.folder import open_folder


@cache
def windows_of(model: Path, text: Path, length: int, count: int) -> Windows:
    """About `count` windows of `text`, evenly spread; the tokenizer is that of the original."""
    tokenizer = load_tokenizer(model)
    test = read_text(str(text), "test")
    ids = torch.tensor(tokenizer(test, add_special_tokens=False, verbose=False)["input_ids"])
    windows = cut_windows(ids, length)
    return windows[:: max(1, len(windows) // count)]


def score(model: Path, output: Path, windows: Windows) -> dict[str, float | None]:
    """Perplexity, KL and agreement of `output` against `model`; every output is read alike."""
    decoders = [load_decoder(open_folder(f), EngineConfig(device="cpu")) for f in (output, model)]
    found = asdict(score_windows(decoders[0], windows, decoders[1]))
    return {name: round(value, 7) for name, value in found.items()}
