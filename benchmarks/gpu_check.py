"""Kernels on the device against their references: no speed is reported of a wrong result."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu_machine import Bench
from benchmarks.gpu_report import Figure, WrongResult, figure
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.kernels.matmul_w4a16.gpu import matmul_triton
from mindpress.kernels.matmul_w4a16.regimes import TileConfig, candidates
from mindpress.kernels.matmul_w4a16.tiles import TiledWeight, tile_weight, untile_weight
from mindpress.kernels.matmul_w8a8.gpu import matmul_w8a8
from mindpress.kernels.matmul_w8a8.reference import matmul_w8a8_reference
from mindpress.kernels.matmul_w8a8.tiles import TileConfig as Int8TileConfig
from mindpress.kernels.matmul_w8a8.weight import Int8Weight, quantize_weight
from mindpress.kernels.quantize_rows.gpu import quantize_rows
from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.kernels.tuning.clock import capability_of

# Outputs, inputs and group.
ODD = ((40, 256, 128), (136, 384, 64), (1032, 1120, 32))
ODD_ROWS = (1, 3, 8, 9, 16, 17, 63, 65, 129, 257)
# Of sums in float32, relative to the sum of the numbers' sizes; a tensor core rounds down.
SUMS = 4e-6
MOST_APART = 1e-3


def check(what: str, error: float) -> None:
    """WrongResult where an error is not below 1, what may be; also NaN."""
    if not error < 1:
        raise WrongResult(f"{what}: the error is {error:.3g} of what it may be")


def odd_products(bench: Bench, dtype: torch.dtype) -> list[Figure]:
    """Every kind of tile at sizes that fill none; codes of few rows enter the tensor cores as
    subnormal numbers, which must not be taken for zero there."""
    sizes, every = (ODD[:1], (1, 9)) if bench.toy else (ODD, ODD_ROWS)
    worst, count = 0.0, 0
    for outputs, inputs, group in sizes:
        weight = tile_weight(_random(bench, outputs, inputs, group), dtype)
        for rows in every:
            x = torch.randn(rows, inputs, device=bench.device).to(dtype)
            kinds = _kinds(bench, rows, outputs, inputs, group)
            for config in kinds[:1] if bench.toy else kinds:
                error = product_error(matmul_triton(x, weight, config), x, weight, config)
                check(f"matmul_w4a16 {outputs}x{inputs} g{group}, {rows} rows, {config}", error)
                worst, count = max(worst, error), count + 1
    name = f"check of matmul_w4a16, {str(dtype).removeprefix('torch.')}"
    return [figure(name, worst, "of the error there may be", products=count)]


def _kinds(bench: Bench, rows: int, outputs: int, inputs: int, group: int) -> list[TileConfig]:
    """One tile of every method, whole and with its inputs in two parts."""
    found = {one.method: one for one in candidates(
        capability_of(bench.device), rows, outputs, inputs, group
    )}  # fmt: skip
    parts = [replace(one, split=2) for one in found.values() if one.method != "dequantize"]
    return [*(replace(one, split=1) for one in found.values()), *parts]


def product_error(y: Tensor, x: Tensor, weight: TiledWeight, config: TileConfig) -> float:
    """The largest, in units of what rounding y once, and all weights, may cost.

    In float64 for small weights, else in float32.
    """
    small = weight.outputs * weight.inputs < 2**22
    wide = torch.float64 if small else torch.float32
    dense = untile_weight(weight).dequantize(torch.float32).to(wide)
    exact, size = x.to(wide) @ dense.T, x.to(wide).abs() @ dense.abs_().T
    numbers = torch.finfo(x.dtype)
    allowed = numbers.eps * exact.abs() + SUMS * size + numbers.smallest_normal * numbers.eps
    if config.method in ("rounded", "dequantize"):
        # Of many million sums some are six standard deviations off.
        allowed += 4 * numbers.eps * size / x.shape[-1] ** 0.5
    return ((y.to(wide) - exact).abs() / allowed).max().item()


def check_product(y: Tensor, x: Tensor, weight: TiledWeight, config: TileConfig) -> None:
    """WrongResult for a y that is not x W^T."""
    what = f"matmul_w4a16 {weight.outputs}x{weight.inputs}, {len(x)} rows, {config}"
    check(what, product_error(y, x, weight, config))


def odd_codes(bench: Bench) -> list[Figure]:
    """`quantize_rows` and `matmul_w8a8` at sizes that fill no tile."""
    sizes, apart = ((40, 160),) if bench.toy else ((40, 160), (136, 1120), (1032, 4128)), 0.0
    for outputs, inputs in sizes:
        weight = quantize_weight(torch.randn(outputs, inputs, device=bench.device))
        for rows in (3,) if bench.toy else ODD_ROWS:
            x = torch.randn(rows, inputs, dtype=torch.float16, device=bench.device)
            apart = max(apart, check_codes(x, weight, None))
    return [figure("check of quantize_rows", apart, "of the codes are not the reference's")]


def check_codes(x: Tensor, weight: Int8Weight, config: Int8TileConfig | None) -> float:
    """WrongResult where a product of codes is not the reference's up to its last bit.

    Codes of `x` may be one apart at the edge of a step; the share of those that are.
    """
    rows, expected = quantize_rows(x), quantize_rows_reference(x)
    what = f"{weight.outputs}x{weight.inputs}, {len(x)} rows, {config}"
    distance = (rows.codes.int() - expected.codes.int()).abs()
    apart = (distance > 0).float().mean().item()
    if distance.max() > 1 or apart > MOST_APART:
        raise WrongResult(f"quantize_rows of {what}: {distance.max()} apart, a share of {apart}")
    y = matmul_w8a8(rows, weight, torch.float16, config=config)
    exact = matmul_w8a8_reference(rows, weight, torch.float32)
    numbers = torch.finfo(torch.float16)
    allowed = numbers.eps * exact.abs() + numbers.smallest_normal * numbers.eps
    check(f"matmul_w8a8 {what}", ((y.float() - exact).abs() / allowed).max().item())
    return apart


def relative(what: str, got: Tensor, expected: Tensor, most: float) -> float:
    """The size of the difference to that of what is expected; WrongResult above `most`."""
    error = ((got.double() - expected.double()).norm() / expected.double().norm()).item()
    check(what, error / most)
    return error


def same(what: str, got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """WrongResult unless all are equal."""
    if not all(map(torch.equal, got, expected)):
        raise WrongResult(f"{what}: not what the reference gives")


def _random(bench: Bench, outputs: int, inputs: int, group: int) -> QuantizedWeight:
    size = outputs, inputs // group
    return QuantizedWeight(
        torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, device=bench.device),
        torch.rand(size, device=bench.device) * 0.01 + 0.001,
        torch.randint(0, 16, size, dtype=torch.uint8, device=bench.device),
        QuantSpec(4, group),
    )
