"""Loss and time of mindpress, plain rounding and AutoAWQ at w4 g128 on the same tokens.

    python -m benchmarks.quality MODEL [MODEL ...] --train TRAIN.txt --test TEST.txt \\
        --autoawq RIVAL_PYTHON --scratch DIR [--seeds 0 1 2] [--only NAME ...]

KL is the mean divergence of next-token distributions from the original over windows of 256 tokens
of the test text, evenly spread, computed by `mindpress.engine` for every output alike. Each method
is a process of its own, on one thread; times are wall and CPU seconds of the whole process. Seeds
choose the calibration samples; rivals and plain rounding are measured with the first one only.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.machine import save
from mindpress.calib.datasets import calibration_tokens, read_text
from mindpress.checkpoint.companions import copy_companions, load_tokenizer
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import cut_windows, score_windows
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.rounding import rounded
from mindpress.sources.folder import open_folder

SAMPLES, LENGTH = 128, 256
COMPENSATED = ["--rounding", "compensated"]
OURS = {
    "mindpress, nearest": [],
    "mindpress, nearest, search": ["--search-scale"],
    "mindpress, compensated, original": [*COMPENSATED, "--propagate", "original", "--refine", "0"],
    "mindpress, compensated, quantized": [
        *COMPENSATED,
        "--propagate",
        "quantized",
        "--refine",
        "0",
    ],
    "mindpress, compensated, asymmetric": [*COMPENSATED, "--refine", "0"],
    "mindpress, compensated": COMPENSATED,
    "mindpress, compensated, search": [*COMPENSATED, "--search-scale"],
}
AS_SHIPPED = "AutoAWQ 0.2.9 as shipped"
RIVAL = Path(__file__).parent / "rivals" / "autoawq_quantize.py"


def round_plainly(model: Path, target: Path) -> None:
    """A float folder whose linears are rounded to nearest, nothing else."""
    target.mkdir(parents=True)
    source = open_folder(model)
    linears = {linear.name for linear in source.architecture.block.linears}
    tensors = load_file(model / "model.safetensors")
    for name, tensor in tensors.items():
        if any(name.endswith(f"{linear}.weight") for linear in linears):
            tensors[name] = rounded(tensor, QuantSpec()).to(tensor.dtype)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((model / "config.json").read_text())
    copy_companions(model, target)


def timed(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds of a process."""
    began = time.perf_counter()
    # One thread that does not spin: fair where other work runs.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    wall, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    return {"wall_seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}


def score(model: Path, output: Path, test: str, count: int) -> dict[str, float | None]:
    """Perplexity, KL and agreement of `output` against `model`."""
    import torch

    tokenizer = load_tokenizer(model)
    ids = torch.tensor(tokenizer(test, add_special_tokens=False, verbose=False)["input_ids"])
    decoders = [load_decoder(open_folder(f), EngineConfig(device="cpu")) for f in (output, model)]
    windows = cut_windows(ids, LENGTH)
    windows = windows[:: max(1, len(windows) // count)]
    found = asdict(score_windows(decoders[0], windows, decoders[1]))
    return {name: round(value, 7) for name, value in found.items()}


def ours(model: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Every variant of mindpress on one model."""
    place = args.scratch / model.name / f"seed-{seed}"
    command = [sys.executable, "-m", "mindpress", "lite", "auto-awq", str(model), "--overwrite",
               "--calib-dataset", str(args.train), "--calib-samples", str(SAMPLES),
               "--calib-seqlen", str(LENGTH), "--seed", str(seed), "--batch-size", "8"]  # fmt: skip
    test, rows = read_text(str(args.test), "test"), {}
    for number, (name, flags) in enumerate(OURS.items()):
        if args.only and name not in args.only:
            continue
        target = place / str(number)
        times = timed([*command, *flags, "--work-dir", str(target)])
        rows[name] = score(model, target, test, args.windows) | times
    return rows


def rivals(model: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Plain rounding, and AutoAWQ on the same tokens."""
    place = args.scratch / model.name
    place.mkdir(parents=True, exist_ok=True)
    tokens = calibration_tokens(str(args.train), load_tokenizer(model), SAMPLES, LENGTH, seed)
    save_file({"tokens": tokens}, place / "tokens.safetensors")
    rival = [str(args.autoawq), str(RIVAL), str(model), str(place / "tokens.safetensors")]
    times = {}
    if args.autoawq and not args.skip_autoawq:
        times["AutoAWQ 0.2.9"] = timed([*rival, str(place / "autoawq")])
    if args.as_shipped:
        times[AS_SHIPPED] = timed([*rival, str(place / "as-shipped"), "--as-shipped"])
    if not (place / "plain").exists():
        round_plainly(model, place / "plain")
    folders = {"plain rounding": "plain", "AutoAWQ 0.2.9": "autoawq", AS_SHIPPED: "as-shipped"}
    test = read_text(str(args.test), "test")
    return {
        name: score(model, place / folder, test, args.windows) | times.get(name, {})
        for name, folder in folders.items()
        if (place / folder).exists()
    }


def compare(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Every method on one model, by seed."""
    found = {f"seed {seed}": ours(model, seed, args) for seed in args.seeds}
    return {"rivals": rivals(model, args.seeds[0], args), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--autoawq", type=Path, help="python of AutoAWQ's environment")
    parser.add_argument("--skip-autoawq", action="store_true", help="score its earlier output")
    parser.add_argument("--as-shipped", action="store_true", help="also with its fault on CPUs")
    parser.add_argument("--windows", type=int, default=600, help="of the test text, about")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of our calibrations")
    parser.add_argument("--only", nargs="+", choices=list(OURS), help="these of our variants")
    parser.add_argument("--scratch", type=Path, required=True)
    args = parser.parse_args()
    figures = {model.name: compare(model, args) for model in args.models}
    command = "python -m benchmarks.quality MODELS --train TRAIN --test TEST --autoawq PYTHON"
    save("quality", command, {"samples": SAMPLES, "length": LENGTH, **figures})


if __name__ == "__main__":
    main()
