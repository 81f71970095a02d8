"""Reading and writing speed of the runtime on a 110 M random Llama, one thread, beside others.

    python -m benchmarks.runtime SCRATCH [--llama-python VENV/bin/python]

Against transformers (float32, `generate`'s own loop) and, with --llama-python, llama.cpp in Q4_0,
which runs in a process of a venv that has llama-cpp-python and gguf. All take turns; a figure is
the median over turns, a ratio that of medians.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from benchmarks.machine import save
from benchmarks.random_llama import llama_config, write
from mindpress.engine.config import EngineConfig, GenerationConfig, KernelName
from mindpress.engine.opening import open_runtime
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration, Recipe

PROMPT, NEW, LONG, BATCH, TURNS = 32, 24, 512, 8, 5
KERNELS: tuple[KernelName, ...] = ("cpu", "cpu-int8")
# Seconds of reading LONG tokens, and of writing a token after PROMPT (of all sequences).
Turn = dict[str, float]


class Ours:
    """A runtime, and how much of its steps is not in the compiled library or torch's products."""

    def __init__(self, folder: Path, kernels: KernelName, batch: int = 1) -> None:
        config = EngineConfig("cpu", kernels=kernels, threads=1, max_batch_size=batch)
        self._runtime, self._batch = open_runtime(folder, config), batch
        self._number = 0

    def __call__(self) -> Turn:
        return {"read": self._read(), "token": median(self._written())}

    def _prompt(self, length: int) -> list[int]:
        # Another beginning each time: a prompt that was read before is not read again.
        self._number += 1
        return [5 + (self._number * 31 + index) % 20000 for index in range(length)]

    def _read(self) -> float:
        begun = time.perf_counter()
        self._runtime.add(self._prompt(LONG), GenerationConfig(1, temperature=0.0))
        while not self._runtime.idle:
            self._runtime.step()
        return time.perf_counter() - begun

    def _written(self) -> list[float]:
        settings = GenerationConfig(NEW, temperature=0.0, ignore_eos=True)
        for _ in range(self._batch):
            self._runtime.add(self._prompt(PROMPT), settings)
        times = []
        while not self._runtime.idle:
            begun = time.perf_counter()
            self._runtime.step()
            times.append(time.perf_counter() - begun)
        return times[2:]

    def overhead(self) -> float:
        """Share of a decoding step outside of the blocks and the head."""
        runtime, inside = self._runtime, [0.0]
        forward, logits = runtime._forward, runtime.decoder.logits  # pyright: ignore

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                begun = time.perf_counter()
                result = function(*given)
                inside[0] += time.perf_counter() - begun
                return result

            return call

        runtime._forward, runtime.decoder.logits = timed(forward), timed(logits)  # pyright: ignore
        runtime.add(self._prompt(PROMPT), GenerationConfig(60, temperature=0.0, ignore_eos=True))
        runtime.step()
        inside[0], begun = 0.0, time.perf_counter()
        while not runtime.idle:
            runtime.step()
        whole = time.perf_counter() - begun
        runtime._forward, runtime.decoder.logits = forward, logits  # pyright: ignore
        return 1 - inside[0] / whole


class Transformers:
    """Its own `generate`, greedy, in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    @torch.inference_mode()
    def __call__(self) -> Turn:
        ids = torch.arange(5, 5 + LONG).unsqueeze(0)
        begun = time.perf_counter()
        self._model(ids, use_cache=True, logits_to_keep=1)
        read = time.perf_counter() - begun
        one, all_ = self._generated(1), self._generated(NEW)
        return {"read": read, "token": (all_ - one) / (NEW - 1)}

    def _generated(self, new: int) -> float:
        ids = torch.arange(5, 5 + PROMPT).unsqueeze(0)
        begun = time.perf_counter()
        self._model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=new, max_new_tokens=new, pad_token_id=0,
        )  # fmt: skip
        return time.perf_counter() - begun


class LlamaCpp:
    """A process that does a turn for every line it reads."""

    def __init__(self, python: str, folder: Path, scratch: Path) -> None:
        script = Path(__file__).parent / "rivals" / "llama_cpp_decode.py"
        self._process = subprocess.Popen(
            [python, str(script), str(folder), str(scratch / "gguf")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()

    def __call__(self) -> Turn:
        long, short = self._ask(LONG, 0), self._ask(PROMPT, NEW)
        return {"read": long["read"], "token": median(short["tokens"][2:])}

    def _ask(self, prompt: int, new: int) -> dict[str, Any]:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps([prompt, new]) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            sys.exit("the process of llama.cpp ended")
        return json.loads(line)


def models(scratch: Path) -> tuple[Path, Path]:
    """The random Llama, and its 4-bit copy."""
    plain, quantized = scratch / "llama-110m", scratch / "llama-110m-w4"
    if not plain.exists():
        write(plain, "float16", llama_config(768, 2048, 12, 12, 12))
    if not quantized.exists():
        calibration = Calibration(dataset="excerpt", samples=4, length=128)
        quantize_model(Recipe(str(plain), calibration=calibration), quantized)
    return plain, quantized


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--llama-python", help="Python of a venv with llama-cpp-python and gguf")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plain, quantized = models(arguments.scratch)
    runners: dict[str, Callable[[], Turn]] = {"transformers fp32": Transformers(plain)}
    for kernels in KERNELS:
        runners[kernels] = Ours(quantized, kernels)
        runners[f"{kernels}, batch {BATCH}"] = Ours(quantized, kernels, BATCH)
    if arguments.llama_python:
        runners["llama.cpp q4_0"] = LlamaCpp(arguments.llama_python, plain, arguments.scratch)
    turns: dict[str, list[Turn]] = {name: [] for name in runners}
    for turn in range(TURNS + 1):
        for name, run in runners.items():
            found = run()
            if turn:  # the first one warms up
                turns[name].append(found)
        print(f"turn {turn} of {TURNS}", file=sys.stderr)
    overhead = {name: Ours(quantized, name).overhead() for name in KERNELS}
    command = "python -m benchmarks.runtime SCRATCH"
    command += " --llama-python PYTHON" if arguments.llama_python else ""
    save("runtime", command, figures(turns) | {"overhead": overhead, "threads": 1})


def figures(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """Medians in milliseconds, tokens per second, and how many times as fast as transformers."""
    found: dict[str, Any] = {}
    for name, own in turns.items():
        sequences = BATCH if name.endswith(f"batch {BATCH}") else 1
        read, token = (median(turn[key] for turn in own) for key in ("read", "token"))
        found[name] = {
            "ms per step": 1e3 * token,
            "written tokens/s": sequences / token,
            "read tokens/s": LONG / read,
            "fastest and slowest step, ms": [
                1e3 * choose(turn["token"] for turn in own) for choose in (min, max)
            ],
        }
    other = found["transformers fp32"]
    for row in found.values():
        row["writing against transformers"] = row["written tokens/s"] / other["written tokens/s"]
        row["reading against transformers"] = row["read tokens/s"] / other["read tokens/s"]
    return {"prompt": PROMPT, "new": NEW, "long prompt": LONG, "turns": TURNS, "figures": found}


if __name__ == "__main__":
    main()
