"""How much faster the compiled CPU kernels are than torch in float32.

    python -m benchmarks.cpu_kernels [--shapes 4096x4096] [--rows 1 4] [--threads 1 2]

Products with weights of 4 bits and of int8, and attention over a cache in pages. Every round runs
every candidate once, so that other work on the machine meets all of them, and weights are cold
where the candidates together exceed the caches. The smallest time counts: of the process's CPU on
one thread, which others cannot lengthen by taking the core; of the clock on more. Ratios are of
torch's time to the candidate's.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from benchmarks.machine import machine, save
from mindpress.formats.cache_pages import (
    CachePages,
    PageShape,
    float_pages,
    online_pages,
    slots_of,
)
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.kernels.cache_attention.cpu import attend_pages_cpu
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring
from mindpress.kernels.cache_write.cpu import write_pages_cpu
from mindpress.kernels.matmul_w4a16 import matmul, pack_weight
from mindpress.kernels.matmul_w4a16.cpu import CpuOptions
from mindpress.kernels.matmul_w4a16.int4_torch import matmul_torch_int4, pack_torch_int4
from mindpress.kernels.matmul_w4a16.onnx import matmul_onnx, pack_onnx
from mindpress.kernels.matmul_w8a8.cpu import matmul_w8a8_cpu, pack_int8_weight
from mindpress.kernels.matmul_w8a8.weight import quantize_weight
from mindpress.kernels.native.library import native
from mindpress.kernels.quantize_rows.cpu import quantize_rows_cpu

SHAPES = ["4096x4096", "11008x4096", "4096x11008"]  # outputs x inputs
GROUP = 128
TORCH = "torch float32"
CPU = torch.device("cpu")
HEADS, KV_HEADS, CHANNELS, PAGE = 32, 8, 128, 64
ATTENTIONS = {"decode 2048": (2048, 1), "prompt 512": (512, 512), "prompt 512 of 2048": (2048, 512)}
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


def products(weight: QuantizedWeight, rows: int, threads: int) -> dict[str, Candidate]:
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
    int8 = pack_int8_weight(quantize_weight(floats))
    found["w8a8"] = lambda: matmul_w8a8_cpu(quantize_rows_cpu(x, threads), int8, threads)
    bfloat16 = pack_torch_int4(weight)
    found["torch int4 bfloat16"] = lambda: matmul_torch_int4(x, bfloat16)
    if find_spec("onnxruntime"):
        session = pack_onnx(weight, 4, threads)
        found["onnxruntime int4, int8 activations"] = lambda: matmul_onnx(x, session)
    return found


def attentions(length: int, rows: int, threads: int) -> dict[str, Candidate]:
    """Attention of the last `rows` tokens of a sequence over pages of every kind."""
    query = torch.randn(rows, HEADS, CHANNELS)
    tokens = torch.randn(2, length, KV_HEADS, CHANNELS)
    table = torch.randperm(length // PAGE)
    slots = slots_of(table, 0, length, PAGE)
    batch = PagedBatch(
        torch.tensor([0, rows]), torch.tensor([length]), table.unsqueeze(0), rows, length
    )
    scoring = Scoring(CHANNELS**-0.5)
    found: dict[str, Candidate] = {TORCH: torch_attention(query, tokens)}
    for name, made in empty_pages(length).items():
        keys, values = made(), made()
        write_pages_cpu(keys, slots, tokens[0])
        write_pages_cpu(values, slots, tokens[1])
        found[name] = lambda keys=keys, values=values: attend_pages_cpu(
            query, keys, values, batch, scoring, threads
        )
    return found


def torch_attention(query: Tensor, tokens: Tensor) -> Candidate:
    """Over keys and values that were already repeated for the heads of a group."""
    rows, length = len(query), tokens.shape[1]
    q = query.transpose(0, 1).unsqueeze(0)
    repeated = tokens.transpose(1, 2).repeat_interleave(HEADS // KV_HEADS, 1).unsqueeze(1)
    mask = torch.ones(rows, length, dtype=torch.bool).tril(length - rows)
    given: dict[str, Any] = {"is_causal": rows == length > 1}
    if 1 < rows < length:
        given = {"attn_mask": mask}

    def attend() -> Tensor:
        mixed = scaled_dot_product_attention(q, repeated[0], repeated[1], **given)
        return mixed[0].transpose(0, 1)

    return attend


def empty_pages(length: int) -> dict[str, Callable[[], CachePages]]:
    shape = PageShape(length // PAGE, KV_HEADS, PAGE, CHANNELS)
    return {
        "pages float32": lambda: float_pages(shape, torch.float32, CPU),
        "pages bfloat16": lambda: float_pages(shape, torch.bfloat16, CPU),
        "pages int8": lambda: online_pages(shape, CacheSpec(8), CPU),
        "pages int4": lambda: online_pages(shape, CacheSpec(4), CPU),
    }


def smallest_times(candidates: dict[str, Candidate], seconds: float) -> dict[str, Times]:
    """The smallest clock and CPU time of each, in rounds for about `seconds`."""
    best: dict[str, Times] = dict.fromkeys(candidates, (float("inf"), float("inf")))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for name, product in candidates.items():
            best[name] = min_each(best[name], timed(product))
        rounds += 1
    return best


def timed(product: Candidate) -> Times:
    clock, cpu = time.perf_counter(), time.process_time()
    product()
    return time.perf_counter() - clock, time.process_time() - cpu


def min_each(one: Times, other: Times) -> Times:
    return min(one[0], other[0]), min(one[1], other[1])


def measure(candidates: dict[str, Candidate], threads: int, seconds: float) -> dict[str, Any]:
    """Milliseconds, ratio to torch and error of each candidate."""
    times = smallest_times(candidates, seconds)
    exact = candidates[TORCH]()
    judged = 1 if threads == 1 else 0
    figures = {}
    for name, product in candidates.items():
        clock, cpu = times[name]
        error = ((product() - exact).norm() / exact.norm()).item()
        figures[name] = {
            "clock_ms": round(1e3 * clock, 3),
            "cpu_ms": round(1e3 * cpu, 3),
            "times_as_fast": round(times[TORCH][judged] / times[name][judged], 2),
            "relative_error": float(f"{error:.1e}"),
        }
    return figures


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"products": {}, "attention": {}}

    def add(part: str, name: str, candidates: dict[str, Candidate], threads: int) -> None:
        full = f"{name}, {threads} threads"
        found[part][full] = measure(candidates, threads, args.seconds)
        print(full, found[part][full], flush=True)

    for threads in args.threads:
        torch.set_num_threads(threads)
        for shape in args.shapes:
            outputs, inputs = map(int, shape.split("x"))
            weight = random_weight(outputs, inputs)
            for rows in args.rows:
                add("products", f"{shape}, {rows} rows", products(weight, rows, threads), threads)
        for name, (length, rows) in ATTENTIONS.items():
            add("attention", name, attentions(length, rows, threads), threads)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 64, 512])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--out", type=Path, help="a file; else benchmarks/results")
    args = parser.parse_args()
    torch.manual_seed(0)
    figures = {"native": native().reason, **measure_all(args)}
    command = "python -m benchmarks.cpu_kernels"
    if args.out is None:
        save("cpu_kernels", command, figures)
        return
    whole = {"command": command, "machine": machine(), **figures}
    args.out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
