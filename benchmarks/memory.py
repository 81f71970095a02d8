"""Peak memory of quantizing a 1.2 B random Llama against loading it whole.

    python -m benchmarks.memory SCRATCH

Each figure is the peak resident memory of a process of its own, less that of a process that
imports the same libraries and stops. Two depths show that the peak does not grow with layers.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import save
from benchmarks.random_llama import llama_config, write

PEAK = "from mindpress.memory import peak_bytes; print(peak_bytes())"
BASE = "import torch, transformers, safetensors, pyarrow; from transformers import {names}; "
NAMES = "AutoModelForCausalLM, LlamaForCausalLM"
# One token through it: transformers maps the files, and pages that nobody read are not counted.
LOAD = (
    "import torch; from transformers import AutoModelForCausalLM;"
    "model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype='auto');"
    "torch.set_grad_enabled(False); model(torch.tensor([[1]]));"
)
QUANTIZE = """
from pathlib import Path
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration, Recipe
calibration = Calibration(dataset="excerpt", samples=16, length=512)
recipe = Recipe({folder!r}, search_scale={search}, rounding={rounding!r}, calibration=calibration)
quantize_model(recipe, Path({target!r}), overwrite=True)
"""


def peak(code: str) -> int:
    """Peak resident bytes of a Python process that runs `code`."""
    run = [sys.executable, "-c", code + "\n" + PEAK]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure(scratch: Path, layers: int, search: bool, rounding: str) -> dict[str, Any]:
    """Peaks above the base process, in bytes, for one depth."""
    folder = scratch / f"llama-{layers}"
    if not folder.exists():
        write(folder, "bfloat16", llama_config(2048, 5632, layers, 16, 4))
    base = peak(BASE.format(names=NAMES))
    whole = peak(LOAD.format(folder=str(folder))) - base
    target = str(scratch / "quantized")
    settings = {"folder": str(folder), "target": target, "search": search, "rounding": rounding}
    streamed = peak(QUANTIZE.format(**settings)) - base
    return {"layers": layers, "base": base, "whole": whole, "streamed": streamed,
            "ratio": round(streamed / whole, 3)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 24])
    parser.add_argument("--search", action="store_true", help="with --search-scale")
    parser.add_argument("--rounding", choices=["nearest", "compensated"], default="compensated")
    args = parser.parse_args()
    runs = [measure(args.scratch, n, args.search, args.rounding) for n in args.layers]
    name = "-".join(["memory", *["nearest"] * (args.rounding == "nearest"),
                     *["search"] * args.search])  # fmt: skip
    command = f"python -m benchmarks.memory SCRATCH --rounding {args.rounding}"
    save(name, command + " --search" * args.search, {"runs": runs})


if __name__ == "__main__":
    main()
