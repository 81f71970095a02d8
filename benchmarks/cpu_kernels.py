"""How much faster products with 4-bit weights are on this processor than torch's in float32.

    python -m benchmarks.cpu_kernels [--shapes 4096x4096] [--rows 1 4] [--threads 1 2]

Every round runs every candidate once, so that other work on the machine meets all of them, and
weights are cold where the candidates together exceed the caches. The smallest time counts: of the
process's CPU on one thread, which others cannot lengthen by taking the core; of the clock on more.
Ratios are of torch's time to the candidate's.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.machine import save
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.kernels.matmul_w4a16 import matmul, pack_weight
from mindpress.kernels.matmul_w4a16.cpu import CpuOptions
from mindpress.kernels.native.library import native

SHAPES = ["4096x4096", "11008x4096", "4096x11008"]  # outputs x inputs
GROUP = 128
TORCH = "torch float32"
Candidate = Callable[[], Tensor]
Times = tuple[float, float]  # seconds of the clock, of the process's CPU


def random_weight(outputs: int, inputs: int) -> QuantizedWeight:
    """Codes and zeros of any value, scales of a linear layer's size."""
    groups = inputs // GROUP
    return QuantizedWeight(
        codes=torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8),
        scales=torch.rand(outputs, groups) * 0.01 + 0.001,
        zeros=torch.randint(6, 10, (outputs, groups), dtype=torch.uint8),
        spec=QuantSpec(4, GROUP),
    )


def candidates(weight: QuantizedWeight, rows: int, threads: int) -> dict[str, Candidate]:
    """The products to time, by name."""
    x = torch.randn(rows, weight.codes.shape[1])
    floats, packed = weight.dequantize(torch.float32), pack_weight(weight)
    found: dict[str, Candidate] = {TORCH: lambda: linear(x, floats)}
    for instructions in native().instruction_sets[1:]:
        options = CpuOptions(threads, instructions)
        for mode, exact in (("w4a8", False), ("w4a32", True)):
            found[f"{mode} {instructions}"] = lambda exact=exact, options=options: matmul(
                x, packed, exact=exact, options=options
            )
    return found


def smallest_times(products: dict[str, Candidate], seconds: float) -> dict[str, Times]:
    """The smallest clock and CPU time of each, in rounds for about `seconds`."""
    best: dict[str, Times] = dict.fromkeys(products, (float("inf"), float("inf")))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for name, product in products.items():
            best[name] = min_each(best[name], timed(product))
        rounds += 1
    return best


def timed(product: Candidate) -> Times:
    clock, cpu = time.perf_counter(), time.process_time()
    product()
    return time.perf_counter() - clock, time.process_time() - cpu


def min_each(one: Times, other: Times) -> Times:
    return min(one[0], other[0]), min(one[1], other[1])


def measure(weight: QuantizedWeight, rows: int, threads: int, seconds: float) -> dict[str, Any]:
    """Milliseconds, ratio to torch and error of each candidate."""
    torch.set_num_threads(threads)
    products = candidates(weight, rows, threads)
    times = smallest_times(products, seconds)
    exact = products[TORCH]()
    judged = 1 if threads == 1 else 0
    figures = {}
    for name, product in products.items():
        clock, cpu = times[name]
        error = ((product() - exact).norm() / exact.norm()).item()
        figures[name] = {
            "clock_ms": round(1e3 * clock, 3),
            "cpu_ms": round(1e3 * cpu, 3),
            "times_as_fast": round(times[TORCH][judged] / times[name][judged], 2),
            "relative_error": float(f"{error:.1e}"),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 64, 512])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    args = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for shape in args.shapes:
        outputs, inputs = map(int, shape.split("x"))
        weight = random_weight(outputs, inputs)
        for rows in args.rows:
            for threads in args.threads:
                name = f"{shape}, {rows} rows, {threads} threads"
                found[name] = measure(weight, rows, threads, args.seconds)
                print(name, found[name], flush=True)
    command = "python -m benchmarks.cpu_kernels"
    save("cpu_kernels", command, {"native": native().reason, "products": found})


if __name__ == "__main__":
    main()
