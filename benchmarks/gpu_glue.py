"""What stands between the products of a decoder: norms, gates, rotation and writing, sampling.

Operands are where the launch before left them: in the second-level cache where they fit, as in a
model. The share is of a large copy's bytes per second; few rows cannot reach it.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_cache import CHANNELS, PAGE, new_pages
from benchmarks.gpu_check import relative, same
from benchmarks.gpu_machine import Bench
from benchmarks.gpu_report import Figure, Section, WrongResult, figure
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.gated.gpu import gated
from mindpress.kernels.gated.reference import gated_reference
from mindpress.kernels.rms_norm.gpu import add_rms_norm
from mindpress.kernels.rms_norm.reference import add_rms_norm_reference
from mindpress.kernels.rotary_write.gpu import rotate_and_write_triton
from mindpress.kernels.rotary_write.reference import rotate_and_write_reference
from mindpress.kernels.sampling.gpu import sample
from mindpress.kernels.sampling.parameters import SamplingRows
from mindpress.kernels.sampling.reference import sample_reference
from mindpress.kernels.tuning.clock import Launch, captured, medians

HIDDEN, INNER, HEADS, VOCABULARY = 4096, 11008, 32, 128256
ROWS = (1, 64, 4096)
EPS = 1e-5
MOST_ERROR = 2e-3  # of the rounding to float16


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a block of Llama-2-7B, or of a toy."""

    hidden: int
    inner: int
    heads: int
    vocabulary: int
    rows: tuple[int, ...]


def measure_glue(section: Section, bench: Bench) -> None:
    """Microseconds of each, and bytes moved as a share of the memory's speed."""
    sizes = Sizes(HIDDEN, INNER, HEADS, VOCABULARY, ROWS)
    if bench.toy:
        sizes = Sizes(96, 80, 1, 500, (2,))
    for rows in sizes.rows:
        section.attempt(f"norm, {rows} rows", 2, partial(_norm, bench, sizes, rows))
        section.attempt(f"gate, {rows} rows", 2, partial(_gate, bench, sizes, rows))
        for bits in (16, 8, 4):
            work = partial(_rotate, bench, sizes, rows, bits)
            section.attempt(f"rotate and write, {rows} rows, {bits} bits", 3, work)
    for sequences in (2,) if bench.toy else (1, 64):
        for kind in ("greedy", "top_k 40, top_p 0.95", "top_p 0.95"):
            work = partial(_sample, bench, sizes, sequences, kind)
            section.attempt(f"sample {kind}, {sequences} sequences", 4, work)


def _timed(bench: Bench, name: str, launch: Launch, nbytes: int) -> list[Figure]:
    count = 1 if bench.toy else 32
    took = medians([captured([launch] * count, bench.device)])[0]
    return [figure(name, 1000 * took, "µs", share_of_bandwidth=nbytes / took / bench.bandwidth)]


def _norm(bench: Bench, sizes: Sizes, rows: int) -> list[Figure]:
    x, residual = _random(bench, 2, rows, sizes.hidden)
    weight = _random(bench, sizes.hidden).float()
    got, expected = (f(x, residual, weight, EPS) for f in (add_rms_norm, add_rms_norm_reference))
    relative("norm", got[0], expected[0], MOST_ERROR)
    same("sum of the norm", got[1:], expected[1:])
    launch = partial(add_rms_norm, x, residual, weight, EPS)
    return _timed(bench, f"rms_norm with residual, {rows} rows", launch, 4 * x.nbytes)


def _gate(bench: Bench, sizes: Sizes, rows: int) -> list[Figure]:
    x = _random(bench, rows, 2 * sizes.inner)
    relative("gate", gated(x, "silu"), gated_reference(x, "silu"), MOST_ERROR)
    nbytes = x.nbytes * 3 // 2
    return _timed(bench, f"gate, {rows} rows", partial(gated, x, "silu"), nbytes)


def _rotate(bench: Bench, sizes: Sizes, rows: int, bits: int) -> list[Figure]:
    """Rows of one sequence each: decoding steps, 8 kv heads of 32."""
    kv_heads = max(1, sizes.heads // 4)
    fused = _random(bench, rows, (sizes.heads + 2 * kv_heads) * CHANNELS)
    pages = new_pages(bits, rows, kv_heads, bench.device)
    other = tuple(_copied(one) for one in pages)
    slots = torch.arange(rows, device=bench.device) * PAGE + PAGE // 3
    turn = torch.rand(rows, CHANNELS // 2, device=bench.device).repeat(1, 2) * 6
    angles = turn.cos().half(), turn.sin().half()
    query = rotate_and_write_triton(fused, angles, (pages[0], pages[1]), slots)
    expected = rotate_and_write_reference(fused, angles, (other[0], other[1]), slots)
    relative("turned queries", query, expected, MOST_ERROR)
    for own, theirs in zip(pages, other, strict=True):
        _check_written(own, theirs)
    launch = partial(rotate_and_write_triton, fused, angles, (pages[0], pages[1]), slots)
    written = sum(one.bytes_per_token for one in pages) * rows
    nbytes = fused.nbytes + query.nbytes + written
    return _timed(bench, f"rotate and write, {rows} rows, {bits} bits", launch, nbytes)


def _copied(pages: CachePages) -> CachePages:
    """Both begin with zeros: what neither writes is equal."""
    parts = {"data": pages.data, "scale": pages.scale, "low": pages.low}
    for part in parts.values():
        if part is not None:
            part.zero_()
    return replace(
        pages, **{name: None if part is None else part.clone() for name, part in parts.items()}
    )


def _check_written(own: CachePages, theirs: CachePages) -> None:
    """Codes of turned keys may be one apart at the edge of a step."""
    if own.spec is None:
        relative("written numbers", own.data, theirs.data, MOST_ERROR)
        return
    halves = [(one & 15, one >> 4) if own.spec.bits == 4 else (one,)
              for one in (own.data, theirs.data)]  # fmt: skip
    apart = [(a.int() - b.int()).abs() for a, b in zip(*halves, strict=True)]
    most = max(one.max().item() for one in apart)
    many = max((one > 0).float().mean().item() for one in apart)
    if most > 1 or many > 0.01:
        raise WrongResult(f"written codes are up to {most} apart, a share of {many:.2g} of them")
    if own.scale is not None and theirs.scale is not None:
        relative("written scales", own.scale, theirs.scale, MOST_ERROR)


def _sample(bench: Bench, sizes: Sizes, sequences: int, kind: str) -> list[Figure]:
    logits = 3 * torch.randn(sequences, sizes.vocabulary, device=bench.device)
    greedy, top_k = kind == "greedy", 40 if "top_k" in kind else 0

    def every(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((sequences,), value, dtype=dtype, device=bench.device)

    parameters = SamplingRows(
        every(0.0 if greedy else 0.8),
        every(top_k, torch.int32),
        every(1.0 if greedy else 0.95),
        every(0.0),
        torch.rand(sequences, device=bench.device),
    )
    got, expected = sample(logits, parameters), sample_reference(logits, parameters)
    # A number within rounding of an edge draws the neighbour, which few do.
    if (got != expected).sum() > (0 if greedy else 1 + sequences // 16):
        raise WrongResult(f"sample {kind}: {got.tolist()}, the reference {expected.tolist()}")
    name = f"sample {kind}, {sequences} sequences of {sizes.vocabulary}"
    return _timed(bench, name, partial(sample, logits, parameters), logits.nbytes)


def _random(bench: Bench, *size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float16, device=bench.device)
