"""Time of `mindpress --help` as a process of its own: `python -m benchmarks.startup`."""

import statistics
import subprocess
import sys
import time

from benchmarks.machine import save

RUNS = 7
COMMAND = [sys.executable, "-m", "mindpress", "--help"]


def seconds() -> float:
    """One run, wall time."""
    began = time.perf_counter()
    subprocess.run(COMMAND, capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    seconds()  # the first run compiles
    runs = sorted(seconds() for _ in range(RUNS))
    figures = {"seconds_min": runs[0], "seconds_median": statistics.median(runs)}
    save("startup", "python -m benchmarks.startup", figures)


if __name__ == "__main__":
    main()
