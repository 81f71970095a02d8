"""What an int8 or int4 cache costs in perplexity and saves in bytes, and what calibrating takes.

    python -m benchmarks.cache MODEL --train TRAIN.txt --test TEST.txt --scratch DIR [--layers 12]

Every cache is scored on the same windows of the test text, against the same model with a cache as
exact as it computes. Peak memory is that of processes of their own on a random Llama of 2048
channels, above a process that imports the same libraries and stops.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import save
from benchmarks.memory import BASE, NAMES, QUANTIZE, peak
from benchmarks.random_llama import llama_config, write
from mindpress.calib.datasets import read_text
from mindpress.calib.statistics_file import load_statistics
from mindpress.calib.text_ids import text_ids
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.engine.cache_plan import CachePlan, online_plan
from mindpress.engine.config import EngineConfig
from mindpress.engine.context import context_length
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import cut_windows, score_windows
from mindpress.formats.cache_scales import CacheRanges, CacheScales, scales_of
from mindpress.formats.cache_spec import CacheSpec, Granularity
from mindpress.lite.calibrate import calibrate_model
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.recipe import Calibration
from mindpress.models.shape import ModelShape
from mindpress.sources.folder import open_folder

SAMPLES, LENGTH = 128, 256
CALIBRATED: tuple[Granularity, ...] = ("tensor", "head", "channel")
CALIBRATE = """
from pathlib import Path
from mindpress.lite.calibrate import calibrate_model
from mindpress.lite.calibration import CalibrationRun
from mindpress.lite.recipe import Calibration
calibration = Calibration(dataset="excerpt", samples=16, length=512)
run = CalibrationRun({folder!r}, calibration=calibration, cache_only={cache_only})
calibrate_model(run, Path({target!r}), overwrite=True)
"""


def calibrated(model: Path, train: str, scratch: Path) -> CacheRanges:
    """The ranges of keys and values on the training text."""
    target = scratch / "statistics"
    calibration = Calibration(train, SAMPLES, LENGTH)
    run = CalibrationRun(str(model), calibration=calibration, cache_only=True)
    calibrate_model(run, target, overwrite=True)
    return load_statistics(target).ranges


def candidates(ranges: CacheRanges, shape: ModelShape) -> dict[str, CachePlan]:
    """Every cache to score, the ones a user gets first."""
    plans = {
        "16 bits": CachePlan(dtype=torch.float16),
        "int8 online": online_plan(8, shape.head_dim),
        "int4 online": online_plan(4, shape.head_dim),
    }
    for bits in (8, 4):
        for symmetric in (False, True):
            kind = f"int{bits}{' symmetric' if symmetric else ''}"
            for granularity in CALIBRATED:
                spec = CacheSpec(bits, symmetric, granularity)
                plans[f"{kind}, calibrated per {granularity}"] = CachePlan(
                    scales_of(ranges, spec, shape.rotary_dim)
                )
            alone = scales_of(ranges, CacheSpec(bits, symmetric, "channel"), rotary_dim=0)
            plans[f"{kind}, channels not in pairs (tried)"] = CachePlan(alone)
            per_token = CachePlan(CacheScales(CacheSpec(bits, symmetric), None, None))
            if per_token not in plans.values():
                plans[f"{kind}, per token"] = per_token
    return plans


def quality(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes, perplexity and divergence of every cache."""
    source, tokenizer = open_folder(args.model), load_tokenizer(args.model)
    ids = torch.tensor(text_ids(read_text(str(args.test), "test"), tokenizer)[0])
    windows = cut_windows(ids, context_length(source.shape))
    windows = windows[:: max(1, len(windows) // args.windows)]
    decoder = load_decoder(source, EngineConfig(device="cpu", quant_policy=0))
    ranges = calibrated(args.model, str(args.train), args.scratch)
    sixteen = CachePlan(dtype=torch.float16).new_cache(source.shape, 1, decoder.dtype,
                                                       decoder.device).bytes_per_token  # fmt: skip
    found: dict[str, Any] = {}
    for name, plan in candidates(ranges, source.shape).items():
        one = decoder.with_cache(plan)
        score = score_windows(one, windows, decoder)
        size = one.new_cache().bytes_per_token
        change = score.perplexity / (score.other_perplexity or 1.0) - 1
        found[name] = {
            "bytes_per_token": size,
            "of_16_bits": round(size / sixteen, 4),
            "perplexity": round(score.perplexity, 4),
            "perplexity_change_percent": round(100 * change, 4),
            "kl_divergence": round(score.divergence or 0.0, 7),
            "top1_agreement": round(score.agreement or 0.0, 5),
        }
        print(name, found[name], flush=True)
    return {"model": args.model.name, "windows": len(windows), "length": windows.shape[1],
            "caches": found}  # fmt: skip


def memory(scratch: Path, layers: int) -> dict[str, int]:
    """Peaks of auto_awq and of both kinds of calibration, in bytes above the base process."""
    folder, target = scratch / f"llama-{layers}", str(scratch / "output")
    if not folder.exists():
        write(folder, "bfloat16", llama_config(2048, 5632, layers, 16, 4))
    base = peak(BASE.format(names=NAMES))
    codes = {
        "auto_awq": QUANTIZE.format(folder=str(folder), target=target, search=False),
        "calibrate": CALIBRATE.format(folder=str(folder), target=target, cache_only=False),
        "calibrate_kv": CALIBRATE.format(folder=str(folder), target=target, cache_only=True),
    }
    peaks = {}
    for name, code in codes.items():
        peaks[name] = peak(code) - base
        shutil.rmtree(target)
    return {"layers": layers, **peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=10**6, help="score this many, evenly spaced")
    parser.add_argument("--layers", type=int, default=12)
    args = parser.parse_args()
    command = "python -m benchmarks.cache MODEL --train TRAIN --test TEST --scratch DIR"
    figures = {**quality(args), "peak_bytes_above_base": memory(args.scratch, args.layers)}
    save("cache", command, figures)


if __name__ == "__main__":
    main()
