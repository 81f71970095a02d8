"""Products with weights of 4 and 8 bits against cuBLAS in 16 bits."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check import check_codes, check_product, odd_codes, odd_products
from benchmarks.gpu_machine import Bench
from benchmarks.gpu_report import Figure, Section, figure
from mindpress.events import Advanced, Event
from mindpress.kernels.matmul_w4a16 import regimes
from mindpress.kernels.matmul_w4a16.gpu import dequantize_triton, matmul_triton, new_workspace
from mindpress.kernels.matmul_w4a16.tiles import TiledWeight
from mindpress.kernels.matmul_w8a8.gpu import matmul_w8a8
from mindpress.kernels.matmul_w8a8.tiles import TileConfig, candidates
from mindpress.kernels.matmul_w8a8.weight import Int8Weight
from mindpress.kernels.matmul_w8a8.workspace import new_workspace as new_int8_workspace
from mindpress.kernels.quantize_rows.gpu import quantize_rows
from mindpress.kernels.tuning import Key
from mindpress.kernels.tuning.clock import (
    Launch,
    capability_of,
    captured,
    copies_to_rotate,
    medians,
    milliseconds,
    rotated,
)
from mindpress.kernels.tuning.products import (
    BUCKETS,
    ProductClock,
    ProductShape,
    key_of,
    random_weight,
    wanted,
)
from mindpress.kernels.tuning.tune import tune_missing

GROUP = 128
SQUARE, WIDE = (4096, 4096), (8192, 8192)
UP, DOWN = (11008, 4096), (4096, 11008)
# Outputs x inputs of the fused linears of Llama-2-7B.
LLAMA = ((12288, 4096), SQUARE, (22016, 4096), DOWN)
W4_ROWS, W8_ROWS = (1, 16, 64, 256, 1024, 4096), (1, 16, 64, 256, 4096)
W4_GOALS = {(SQUARE, 1): 2.3, (WIDE, 1): 2.6, (WIDE, 16): 2.2}
W4_ALWAYS = {64: 1.5, 256: 0.85, 1024: 0.85, 4096: 0.85}
W8_GOALS = {1: 1.6, 16: 1.6, 64: 1.6, 4096: 1.5}
# Of int8 tiles: each is compiled, which takes a second.
MOST_TILES = 8


@dataclass(frozen=True, slots=True)
class Operands:
    """Weights of one shape in 4 bits and in 16, each as often as makes them come from memory."""

    tiled: list[TiledWeight]
    dense: list[Tensor]


def measure_products(section: Section, bench: Bench) -> None:
    """`matmul_w4a16` by default tiles and by the best of the candidates; tunes Llama-2-7B."""
    _type_figures(section, bench, torch.float16)
    clock = TuningClock(section, bench)
    sizes = ((128, 128),) if bench.toy else LLAMA
    for shape in (ProductShape(*size, GROUP, torch.float16) for size in sizes):
        keys = wanted([shape], bench.device, (1, 32) if bench.toy else BUCKETS)
        name = f"tune {shape.outputs}x{shape.inputs}"
        section.attempt(name, 12, partial(_tuned, bench, keys, clock))
    _type_figures(section, bench, torch.bfloat16)


def _type_figures(section: Section, bench: Bench, dtype: torch.dtype) -> None:
    section.notes["tuned"] = bench.table.found
    if not section.attempt(f"check {dtype}", 20, partial(odd_products, bench, dtype)):
        return
    for size in ((64, 128),) if bench.toy else (SQUARE, WIDE, UP, DOWN):
        _shape_figures(section, bench, ProductShape(*size, GROUP, dtype))


def _shape_figures(section: Section, bench: Bench, shape: ProductShape) -> None:
    made: list[Operands] = []

    def prepare() -> list[Figure]:
        made.append(_operands(bench, shape))
        return []

    name = f"w4a16 {shape.outputs}x{shape.inputs} {_named(shape.dtype)}"
    if not section.attempt(f"{name}, weights", 3, prepare):
        return
    clock = TuningClock(section, bench)
    for rows in (1,) if bench.toy else W4_ROWS:
        section.attempt(
            f"{name}, {rows} rows", 6, lambda rows=rows: _w4(bench, shape, rows, made[0], clock)
        )


def _w4(
    bench: Bench, shape: ProductShape, rows: int, operands: Operands, clock: "TuningClock"
) -> list[Figure]:
    """Against `torch.mm` with the same weight, dequantized."""
    device = bench.device
    keys = wanted([shape], device, (rows,))
    _tuned(bench, keys, clock)
    key, choices = next(iter(keys.items()))
    default, tuned = choices[0], bench.table.get(key, regimes.TileConfig) or choices[0]
    x = torch.randn(rows, shape.inputs, dtype=shape.dtype, device=device)
    for config in {default, tuned}:
        check_product(matmul_triton(x, operands.tiled[0], config), x, operands.tiled[0], config)
    contenders: list[list[Launch]] = [
        [partial(torch.mm, x, weight.T) for weight in rotated(operands.dense, device)],
        _w4_launches(x, operands.tiled, default),
        _w4_launches(x, operands.tiled, tuned),
    ]
    times = medians([captured(launches, device) for launches in contenders])
    goal = W4_ALWAYS.get(rows, W4_GOALS.get(((shape.outputs, shape.inputs), rows)))
    name = f"w4a16 {shape.outputs}x{shape.inputs} {_named(shape.dtype)}, {rows} rows"
    moved = operands.tiled[0].nbytes + 2 * rows * (shape.inputs + shape.outputs)
    return [_against(name, goal, times, (default, tuned), moved / bench.bandwidth)]


def _w4_launches(x: Tensor, weights: Sequence[TiledWeight], config: Any) -> list[Launch]:
    outputs = weights[0].outputs
    sums, tiles = config.partial_sums(len(x), outputs), config.tiles(len(x), outputs)
    room = new_workspace(sums, tiles, x.device)
    return [partial(matmul_triton, x, one, config, room) for one in rotated(weights, x.device)]


def _against(
    name: str,
    goal: float | None,
    times: Sequence[float],
    configs: tuple[Any, Any],
    least: float,
    **more: Any,
) -> Figure:
    """`times` of cuBLAS, default and tuned in milliseconds; `least` is what memory needs."""
    cublas, default, tuned = times[:3]
    default_value = cublas / default
    return figure(
        name,
        cublas / tuned,
        "times as fast as cuBLAS in 16 bits",
        goal=goal,
        default_value=default_value,
        default_met=None if goal is None else default_value >= goal,
        milliseconds={"cublas": cublas, "default": default, "tuned": tuned},
        share_of_bandwidth=least / tuned,
        default_config=asdict(configs[0]),
        tuned_config=asdict(configs[1]),
        **more,
    )


def _operands(bench: Bench, shape: ProductShape) -> Operands:
    first = random_weight(key_of(shape, 1, bench.device), bench.device)
    dense = dequantize_triton(first)
    copies = copies_to_rotate(first.nbytes, bench.device)
    tiled = [replace(first, words=first.words.clone()) for _ in range(copies)]
    others = copies_to_rotate(dense.nbytes, bench.device) - 1
    return Operands(tiled, [dense, *(dense.clone() for _ in range(others))])


class TuningClock:
    """`ProductClock` for one run that cannot be had again: a tile that fails is kept as such, and
    is never chosen."""

    def __init__(self, section: Section, bench: Bench) -> None:
        self._section, self._clock = section, ProductClock(bench.device, self._milliseconds)
        self._toy = bench.toy

    def __call__(self, key: Key, config: regimes.TileConfig) -> float:
        try:
            return self._clock(key, config)
        except Exception as error:  # noqa: BLE001 - of any kind: other tiles do not depend on it
            self._section.fail(f"tile {key} {config}", error)
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # raises where the device is lost
            return math.inf

    def _milliseconds(self, launches: Sequence[Launch], device: torch.device) -> float:
        return milliseconds(launches[:1] if self._toy else launches, device)


def _tuned(
    bench: Bench, keys: dict[Key, tuple[regimes.TileConfig, ...]], clock: TuningClock
) -> list[Figure]:
    """Times of the winners; they are in the table."""
    found: list[Figure] = []

    def hear(event: Event) -> None:
        if isinstance(event, Advanced):
            took = event.figures["ms"]
            found.append(figure(f"tuned {event.detail}", 1000 * took, "µs"))

    tune_missing(bench.table, keys, clock, hear)
    return found


def measure_int8(section: Section, bench: Bench) -> None:
    """`matmul_w8a8` by default tiles and by the best of some candidates."""
    if not section.attempt("check", 15, partial(odd_codes, bench)):
        return
    for size in ((64, 128),) if bench.toy else (WIDE, SQUARE, UP):
        for rows in (1, 17) if bench.toy else W8_ROWS:
            name = f"w8a8 {size[0]}x{size[1]}, {rows} rows"
            section.attempt(name, 10, partial(_w8, bench, name, size, rows))


def _w8(bench: Bench, name: str, size: tuple[int, int], rows: int) -> list[Figure]:
    """Against `torch.mm` in float16; the product alone, and with the rows made int8 before it."""
    device = bench.device
    codes = torch.randint(-127, 128, size, dtype=torch.int8, device=device)
    first = Int8Weight(codes, torch.rand(size[0], device=device) * 1e-3 + 1e-4)
    copies = copies_to_rotate(first.nbytes, device)
    weights = [Int8Weight(codes.clone(), first.scales) for _ in range(copies)]
    half = first.dequantize(torch.float16)
    dense = [half.clone() for _ in range(copies_to_rotate(half.nbytes, device))]
    x = torch.randn(rows, size[1], dtype=torch.float16, device=device)
    launches = partial(_w8_launches, x, weights)
    choices = spread(candidates(capability_of(device), rows, *size), 2 if bench.toy else MOST_TILES)
    times = [milliseconds(launches(config), device) for config in choices]
    best = choices[min(range(len(choices)), key=times.__getitem__)]
    for config in {choices[0], best}:
        check_codes(x, first, config)
    contenders: list[list[Launch]] = [
        [partial(torch.mm, x, weight.T) for weight in rotated(dense, device)],
        launches(choices[0]),
        launches(best),
        launches(best, quantized=True),
    ]
    found = medians([captured(one, device) for one in contenders])
    moved = (first.nbytes + rows * (size[1] + 2 * size[0])) / bench.bandwidth
    more = {"with_quantized_rows": found[0] / found[3], "tiles_tried": len(choices)}
    goal = W8_GOALS.get(rows)
    return [_against(name, goal, found, (choices[0], best), moved, **more)]


def _w8_launches(
    x: Tensor, weights: Sequence[Int8Weight], config: TileConfig, *, quantized: bool = False
) -> list[Launch]:
    device, codes = x.device, quantize_rows(x)
    room = new_int8_workspace(config, len(x), weights[0].outputs, device)

    def launch(weight: Int8Weight) -> Tensor:
        rows = quantize_rows(x) if quantized else codes
        return matmul_w8a8(rows, weight, torch.float16, config=config, workspace=room)

    return [partial(launch, weight) for weight in rotated(weights, device)]


def spread(choices: Sequence[TileConfig], most: int) -> list[TileConfig]:
    """The first, and of the others so many that they are all kinds."""
    step = max(1, math.ceil((len(choices) - 1) / max(1, most - 1)))
    return [choices[0], *choices[1::step]]


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
