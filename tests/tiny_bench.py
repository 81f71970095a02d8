"""Short benchmarks of a tiny model: the model, the runtime that answers and the settings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import save_tiny

from mindpress.engine.bench_settings import Bench, Load
from mindpress.engine.bench_transformers import open_transformers
from mindpress.engine.config import EngineConfig
from mindpress.engine.opening import open_runtime
from mindpress.engine.runtime import Runtime

CPU = torch.device("cpu")
WORDS = ("the", "history", "of", "a", "city", "is", "long", ".")


def save_ending(folder: Path) -> Path:
    """A model that ends its answers, if it is let, with the token that it always begins with."""
    save_tiny("llama", folder)
    runner = open_transformers(folder, "auto", CPU, trust_remote_code=False)
    ids = torch.tensor([[5] * 8])
    first = runner._model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1)
    ends = {"eos_token_id": [2, int(first[0, -1])], "do_sample": True, "temperature": 2.0}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder


def opened(folder: Path, **settings: Any) -> Runtime:
    limits = {"max_batch_size": 8, "session_len": 64} | settings
    return open_runtime(folder, EngineConfig("cpu", **limits))


def settings(
    path: object = "", loads: Sequence[tuple[int, int]] = ((4, 2),), **changes: Any
) -> Bench:
    values = {"input_len": 12, "output_len": 4, "repeats": 2, "engine": EngineConfig("cpu")}
    loads = tuple(Load(*load) for load in loads)
    return Bench("throughput", str(path), loads, **values | changes)
