"""Every figure that the project's goals name for a GPU, in one run of at most ten minutes.

    python -m benchmarks.gpu [--output FILE] [--only products,w8a8,cache,glue,runtime]
    TRITON_INTERPRET=1 python -m benchmarks.gpu --toy

One NVIDIA GPU, nothing else running on it. Kernels are checked against their references first; the
speed of a wrong result is never reported. The JSON, saved after every measurement, has each goal
beside its figure, the tiles that were fastest (`sections.products.notes.tuned`: entries for
`mindpress/kernels/tuning/tuned.json`), what was skipped for want of time, and what failed, which
makes the exit code 1. With --toy everything is tried at sizes for Triton's interpreter, where times
mean nothing.
"""

import argparse
import gc
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "--toy" in sys.argv:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch

from benchmarks.machine import RESULTS, machine

if TYPE_CHECKING:
    from benchmarks.gpu_machine import Bench
    from benchmarks.gpu_report import Section

# Of the time that all sections have.
SHARES = {"products": 0.32, "w8a8": 0.16, "cache": 0.16, "glue": 0.06, "runtime": 0.3}
SECONDS = 540.0
Measure = Callable[["Section", "Bench"], None]


def sections() -> dict[str, Measure]:
    """In order; imported late, so that --help needs no Triton."""
    from benchmarks.gpu_cache import measure_cache
    from benchmarks.gpu_glue import measure_glue
    from benchmarks.gpu_products import measure_int8, measure_products
    from benchmarks.gpu_runtime import measure_runtime

    return {
        "products": measure_products,
        "w8a8": measure_int8,
        "cache": measure_cache,
        "glue": measure_glue,
        "runtime": measure_runtime,
    }


def main() -> int:
    """1 when something failed, 2 when there is nothing to measure on."""
    begun = time.perf_counter()
    arguments = read_arguments()
    if not arguments.toy and not torch.cuda.is_available():
        print("no CUDA device; --toy tries the code without one", file=sys.stderr)
        return 2
    device = torch.device("cpu") if arguments.toy else torch.device("cuda", 0)
    end = begun + arguments.seconds
    torch.manual_seed(0)
    return measure(arguments, device, end)


def measure(arguments: argparse.Namespace, device: torch.device, end: float) -> int:
    """All sections that were asked for, each until its share of the time is over."""
    from benchmarks.gpu_machine import Bench, driver, hardware, memory_bandwidth
    from benchmarks.gpu_report import Report, say
    from mindpress.kernels.tuning import Table

    gc.freeze()  # what is imported by now: looking through it again and again takes long
    known = sections()
    bandwidth = memory_bandwidth(device)
    head: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        "toy": arguments.toy,
        "hardware": hardware(device),
        "machine": machine(),
        "copy_gigabytes_per_second": round(bandwidth / 1e6, 1),
    }
    report = Report(arguments.output, head)
    say(f"{head['hardware']['name']}, copies {bandwidth / 1e6:.0f} GB/s")
    bench = Bench(device, arguments.toy, bandwidth, Table({}))
    left = sum(SHARES[name] for name in arguments.only)
    for name in arguments.only:
        now = time.perf_counter()
        section = report.section(name, now + (end - now) * SHARES[name] / left)
        left -= SHARES[name]
        try:
            known[name](section, bench)
        except Exception as error:  # noqa: BLE001 - of any kind: other sections do not depend on it
            section.fail("the rest of the section", error)
        section.notes["driver_after"] = driver(device)
        report.save()
    for one in report.failed:
        say(f"FAILED {one}")
    say(f"{arguments.output}")
    gc.unfreeze()
    return 1 if report.failed else 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, help="default: results/gpu.json; of a toy, a temporary one"
    )
    parser.add_argument("--toy", action="store_true", help="small sizes, without a GPU")
    parser.add_argument("--only", type=names, default=list(SHARES), help="sections, with commas")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for the whole run")
    arguments = parser.parse_args()
    if arguments.output is None:
        toys = Path(tempfile.gettempdir()) / "gpu-toy.json"
        arguments.output = toys if arguments.toy else RESULTS / "gpu.json"
    return arguments


def names(text: str) -> list[str]:
    """Sections in the order they are measured in."""
    asked = text.split(",")
    if unknown := set(asked) - set(SHARES):
        raise argparse.ArgumentTypeError(f"not known: {', '.join(sorted(unknown))}")
    return [name for name in SHARES if name in asked]


if __name__ == "__main__":
    sys.exit(main())
