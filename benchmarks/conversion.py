"""Speed of converting a 2 GB fp16 Llama against `cp -r` of the same folder.

    python -m benchmarks.conversion SCRATCH

Each round runs all candidates in a new order on a warm page cache. A conversion ends when every
byte is on the disk; `cp -r` leaves that to the system, so it is timed with a `sync` after it, too.
The library is called in a process that has imported torch; the command starts from nothing.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindpress
from benchmarks.machine import save
from benchmarks.random_llama import llama_config, write
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion

Seconds = dict[str, list[float]]
LAYERS = 22
MODULE = [sys.executable, "-m", "mindpress", "convert", "--quiet"]
PEAK = "from mindpress.memory import peak_bytes; print(peak_bytes())"
BASE = "import mindpress.convert.convert\n" + PEAK
CONVERT = """
from pathlib import Path
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
convert_model(Conversion({folder!r}, Path({target!r})))
"""


def timed(run: Callable[[], object]) -> float:
    """Wall seconds."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def processor_seconds() -> float:
    """Of this process and of those it waited for. Other work on the machine counts less here."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def rounds(folder: Path, scratch: Path, count: int) -> tuple[Seconds, Seconds]:
    """Wall and processor seconds of every candidate in every round."""
    target, copy = scratch / "workspace", scratch / "copy"
    command = [*MODULE, str(folder), "--dst-path", str(target)]
    candidates: dict[str, Callable[[], object]] = {
        "copy": lambda: subprocess.run(["cp", "-r", folder, copy], check=True),
        "library": lambda: convert_model(Conversion(str(folder), target)),
        "command": lambda: subprocess.run(command, check=True, capture_output=True),
    }
    seconds: Seconds = {name: [] for name in (*candidates, "copy_and_sync")}
    processor: Seconds = {name: [] for name in candidates}
    order = list(candidates)
    for number in range(count + 1):
        random.Random(number).shuffle(order)
        for name in order:
            for old in (target, copy):
                shutil.rmtree(old, ignore_errors=True)
            os.sync()
            spent = processor_seconds()
            taken = timed(candidates[name])
            if number:  # the first round warms the page cache
                seconds[name].append(taken)
                processor[name].append(processor_seconds() - spent)
                if name == "copy":
                    seconds["copy_and_sync"].append(taken + timed(os.sync))
    return seconds, processor


def peak(code: str) -> int:
    """Peak resident bytes of a process that runs `code`; pages of mapped files are among them."""
    run = [sys.executable, "-c", code]
    return int(subprocess.run(run, capture_output=True, check=True, text=True).stdout)


def figures(folder: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Medians, ratios of speed (above 1: faster than the copy) and memory."""
    seconds, processor = rounds(folder, scratch, count)
    median = {name: statistics.median(runs) for name, runs in seconds.items()}
    start = statistics.median(
        timed(lambda: subprocess.run([sys.executable, "-c", BASE], capture_output=True, check=True))
        for _ in range(3)
    )
    target = scratch / "workspace"
    shutil.rmtree(target, ignore_errors=True)
    base = peak(BASE)
    whole = peak(CONVERT.format(folder=str(folder), target=str(target)) + PEAK)
    return {
        "version": mindpress.__version__,
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "rounds": count,
        "load_average": os.getloadavg()[0],
        "seconds_median": {name: round(value, 2) for name, value in median.items()},
        "seconds_min": {name: round(min(runs), 2) for name, runs in seconds.items()},
        "processor_seconds_median": {
            name: round(statistics.median(runs), 2) for name, runs in processor.items()
        },
        "seconds_to_import": round(start, 2),
        "speed": {
            "library_to_copy": round(median["copy"] / median["library"], 2),
            "library_to_copy_and_sync": round(median["copy_and_sync"] / median["library"], 2),
            "command_to_copy": round(median["copy"] / median["command"], 2),
            "command_to_copy_and_sync": round(median["copy_and_sync"] / median["command"], 2),
        },
        "peak_bytes_above_import": whole - base,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    folder = args.scratch / "llama-2gb"
    if not folder.exists():
        write(folder, "float16", llama_config(2048, 5632, LAYERS, 16, 4))
    measured = figures(folder, args.scratch, args.rounds)
    for name in ("workspace", "copy"):
        shutil.rmtree(args.scratch / name, ignore_errors=True)
    save("conversion", "python -m benchmarks.conversion SCRATCH", measured)


if __name__ == "__main__":
    main()
