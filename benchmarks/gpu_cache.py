"""Decoding attention over pages of 16, 8 and 4 bits, against torch's over contiguous keys."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_check import relative
from benchmarks.gpu_machine import Bench, free_bytes
from benchmarks.gpu_report import Figure, Section, WrongResult, figure
from mindpress.engine.cache_plan import online_plan
from mindpress.formats.cache_pages import (
    CachePages,
    PageShape,
    float_pages,
    online_pages,
    slots_of,
)
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention.gpu import attend_pages_triton
from mindpress.kernels.cache_attention.launch import (
    MOST_PARTS,
    AttendConfig,
    AttendShape,
    default_config,
)
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring, attend_pages_reference
from mindpress.kernels.cache_write.gpu import write_keys_values_triton
from mindpress.kernels.tuning.clock import (
    Launch,
    capability_of,
    captured,
    copies_to_rotate,
    medians,
    rotated,
)

PAGE, HEADS, KV_HEADS, CHANNELS = 64, 32, 8, 128
LOADS = ((1, 8192), (16, 8192), (1, 131072), (16, 131072))  # sequences, tokens of each
LONG = 131072
GOALS = {8: 1.6, 4: 2.5}  # against our own 16 bits
SHARE_GOAL = 0.7  # of the memory's speed, at the longest
MOST_ERROR = 0.01
SCORING = Scoring(CHANNELS**-0.5)
# Without one of these torch would repeat keys for every head.
QUICK = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


@dataclass(frozen=True, slots=True)
class Decoding:
    """A row for each of some sequences; batches name other pages of the same contents each."""

    query: Tensor
    keys: CachePages
    values: CachePages
    batches: list[PagedBatch]

    @property
    def nbytes(self) -> int:
        """Of the pages one launch reads."""
        return (self.keys.nbytes + self.values.nbytes) // len(self.batches)


def measure_cache(section: Section, bench: Bench) -> None:
    """All loads that fit the memory, with 16 bits, 8 and 4 in turn."""
    if not section.attempt("check", 20, partial(_odd_lengths, bench)):
        return
    for sequences, tokens in ((1, 64),) if bench.toy else LOADS:
        name = f"decode {sequences} x {tokens // 1024}k" if tokens >= 1024 else "decode, toy"
        # Pages of all kinds, torch's keys and values, and what the reference needs.
        need = 8 * sequences * tokens * KV_HEADS * CHANNELS * 2 + 2**33
        if need > free_bytes(bench.device):
            section.skipped.append(f"{name}: needs {need / 2**30:.0f} GiB")
            continue
        work = partial(_decode, bench, name, sequences, tokens)
        section.attempt(name, 10, work)
        section.attempt(
            f"{name}, torch", 5, partial(_torch, section, bench, name, sequences, tokens)
        )


def _odd_lengths(bench: Bench) -> list[Figure]:
    """Sequences that fill no page, written by our kernel and read by it, in all bits."""
    lengths = [1, 7] if bench.toy else [1, 63, 64, 65, 1000, 4097]
    heads = 4 if bench.toy else HEADS
    found = []
    for bits in (16, 8, 4):
        kv_heads = heads // 4
        each = -(-max(lengths) // PAGE)
        keys, values = new_pages(bits, each * len(lengths), kv_heads, bench.device)
        table = torch.randperm(each * len(lengths), device=bench.device).int().view(-1, each)
        for row, length in zip(table, lengths, strict=True):
            k, v = torch.randn(
                2, length, kv_heads, CHANNELS, dtype=torch.float16, device=bench.device
            )
            write_keys_values_triton(keys, values, slots_of(row, 0, length, PAGE), k, v)
        query = torch.randn(len(lengths), heads, CHANNELS, dtype=torch.float16, device=bench.device)
        batch = _batch(table, lengths)
        got = attend_pages_triton(query, keys, values, batch, SCORING)
        expected = attend_pages_reference(query, keys, values, batch, SCORING)
        error = relative(f"attention over {bits} bits", got, expected, MOST_ERROR)
        found.append(figure(f"check of attention over {bits} bits", error, "relative error"))
    return found


def _decode(bench: Bench, name: str, sequences: int, tokens: int) -> list[Figure]:
    cases = {bits: _decoding(bench, bits, sequences, tokens) for bits in (16, 8, 4)}
    tried = {bits: _configs(bench, case) for bits, case in cases.items()}
    for bits, case in cases.items():
        _check(f"{name}, {bits} bits", case, tried[bits])
    runs = [
        captured(_launches(bench, case, config), bench.device)
        for bits, case in cases.items()
        for config in tried[bits]
    ]
    times = iter(medians(runs))
    milliseconds = {bits: [next(times) for _ in configs] for bits, configs in tried.items()}
    return [
        one
        for bits, case in cases.items()
        for one in _figures(bench, (name, bits, tokens), case.nbytes, tried[bits], milliseconds)
    ]


def _figures(
    bench: Bench,
    what: tuple[str, int, int],
    nbytes: int,
    configs: Sequence[AttendConfig],
    milliseconds: dict[int, list[float]],
) -> list[Figure]:
    name, bits, tokens = what
    own, plain = milliseconds[bits], milliseconds[16]
    best = min(range(len(own)), key=own.__getitem__)
    details = {
        "microseconds": 1000 * own[0],
        "config": asdict(configs[0]),
        "best_config": asdict(configs[best]),
        "best_microseconds": 1000 * own[best],
        "bytes": nbytes,
    }
    found = [
        figure(
            f"{name}, {bits} bits, share of bandwidth",
            nbytes / own[0] / bench.bandwidth,
            "of a large copy's bytes per second",
            goal=SHARE_GOAL if tokens == LONG else None,
            best_value=nbytes / own[best] / bench.bandwidth,
            **details,
        )
    ]
    if bits < 16:
        found.append(
            figure(
                f"{name}, {bits} bits",
                plain[0] / own[0],
                "times as fast as our own 16 bits",
                goal=GOALS[bits],
                best_value=min(plain) / own[best],
            )
        )
    return found


def _configs(bench: Bench, case: Decoding) -> list[AttendConfig]:
    """The default, and the same in half and in twice as many parts."""
    batch, shape = case.batches[0], case.keys.shape
    usual = default_config(
        capability_of(bench.device) if bench.device.type == "cuda" else 0,
        AttendShape(
            bits=16 if case.keys.spec is None else case.keys.spec.bits,
            channels=shape.channels,
            page=shape.tokens,
            group=case.query.shape[1] // shape.kv_heads,
            kv_heads=shape.kv_heads,
            sequences=len(batch.lengths),
            most_rows=1,
            longest=batch.longest,
        ),
    )
    parts = usual.parts // 2, min(2 * usual.parts, MOST_PARTS)
    return list(dict.fromkeys([usual, *(replace(usual, parts=one) for one in parts if one)]))


def _launches(bench: Bench, case: Decoding, config: AttendConfig) -> list[Launch]:
    return [
        partial(attend_pages_triton, case.query, case.keys, case.values, batch, SCORING, config)
        for batch in rotated(case.batches, bench.device)
    ]


def _check(what: str, case: Decoding, configs: Sequence[AttendConfig]) -> None:
    """The first sequence against the reference: the others' pages hold the like."""
    whole = case.batches[-1]
    first = PagedBatch(
        whole.starts[:2], whole.lengths[:1], whole.table[:1], whole.most_rows, whole.longest
    )
    expected = attend_pages_reference(case.query[:1], case.keys, case.values, first, SCORING)
    for config in configs:
        got = attend_pages_triton(case.query, case.keys, case.values, whole, SCORING, config)
        relative(f"{what}, {config}", got[:1], expected, MOST_ERROR)
        if not got.isfinite().all():
            raise WrongResult(f"{what}, {config}: not finite")


def _decoding(bench: Bench, bits: int, sequences: int, tokens: int) -> Decoding:
    device, heads = bench.device, 4 if bench.toy else HEADS
    each, kv_heads = -(-tokens // PAGE), heads // 4
    one = new_pages(bits, 1, kv_heads, device)
    copies = copies_to_rotate(sum(part.nbytes for part in one) * each * sequences, device)
    keys, values = new_pages(bits, copies * sequences * each, kv_heads, device)
    for pages in (keys, values):
        _fill(pages)
    order = torch.randperm(copies * sequences * each, device=device).int()
    tables = order.view(copies, sequences, each)
    query = torch.randn(sequences, heads, CHANNELS, dtype=torch.float16, device=device)
    return Decoding(query, keys, values, [_batch(table, [tokens] * sequences) for table in tables])


def new_pages(bits: int, pages: int, kv_heads: int, device: torch.device) -> tuple[CachePages, ...]:
    """For keys and values, as the engine makes them."""
    keys = PageShape(pages, kv_heads, PAGE, CHANNELS)
    shapes = keys, replace(keys, by_channel=True)
    if bits == 16:
        return tuple(float_pages(shape, torch.float16, device) for shape in shapes)
    scales = online_plan(bits, CHANNELS).scales
    spec = CacheSpec(bits) if scales is None else scales.spec
    return tuple(online_pages(shape, spec, device) for shape in shapes)


def _fill(pages: CachePages) -> None:
    """Numbers of about the size of 1."""
    if pages.spec is None or pages.scale is None:
        pages.data.normal_()
        return
    pages.data.random_()
    pages.scale.fill_(4 / pages.spec.largest)
    if pages.low is not None:
        pages.low.fill_(-2)


def _batch(table: Tensor, lengths: Sequence[int]) -> PagedBatch:
    count, device = len(lengths), table.device
    return PagedBatch(
        torch.arange(count + 1, dtype=torch.int32, device=device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
        table.contiguous(),
        1,
        max(lengths),
    )


def _torch(section: Section, bench: Bench, name: str, sequences: int, tokens: int) -> list[Figure]:
    """Both ways to ask torch for it: heads that share keys, and such heads as rows of one."""
    device, heads = bench.device, 4 if bench.toy else HEADS
    kv_heads, wide = heads // 4, {"dtype": torch.float16, "device": device}
    copies = copies_to_rotate(4 * sequences * tokens * kv_heads * CHANNELS, device)
    size = copies, 2, sequences, kv_heads, tokens, CHANNELS
    held = torch.empty(size, **wide).normal_()
    query = torch.randn(sequences, heads, 1, CHANNELS, **wide)
    as_rows = query.view(sequences, kv_heads, 4, CHANNELS)

    def grouped(k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, k, v, enable_gqa=True)

    def by_rows(k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(as_rows, k, v)

    times: dict[str, float] = {}
    for way in (grouped, by_rows):
        launches = [partial(way, *pair) for pair in rotated(list(held), device)]
        try:
            with sdpa_kernel(QUICK if device.type == "cuda" else [SDPBackend.MATH]):
                times[way.__name__] = medians([captured(launches, device)])[0]
        except RuntimeError as error:
            section.notes[f"{name}, torch, {way.__name__}"] = f"cannot: {error}"
    if not times:
        raise RuntimeError("torch has no quick attention for this")
    least = min(times.values())
    nbytes = held[0].nbytes
    ours = next(
        (one["microseconds"] for one in section.figures
         if one["name"] == f"{name}, 16 bits, share of bandwidth"), None
    )  # fmt: skip
    share = nbytes / least / bench.bandwidth
    more = {"milliseconds": times, "share_of_bandwidth": share}
    if ours is None:
        return [figure(f"{name}, torch, 16 bits", 1000 * least, "µs", **more)]
    return [
        figure(f"{name}, ours against torch, 16 bits", 1000 * least / ours, "times as fast", **more)
    ]
