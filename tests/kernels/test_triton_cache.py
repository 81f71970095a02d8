"""Kernels that write pages and attend over them, in Triton's interpreter, against the references.

Pages are poisoned before they are written: codes 0xA5, scales and floats NaN; tables name no page
where they mean nothing.
"""

from dataclasses import dataclass, replace

import pytest

pytest.importorskip("triton", reason="no Triton")

import torch

from mindpress.errors import ConfigError
from mindpress.formats.cache_pages import (
    CachePages,
    PageShape,
    fixed_pages,
    float_pages,
    online_pages,
    slots_of,
)
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention.gpu import attend_pages_triton
from mindpress.kernels.cache_attention.launch import AttendConfig, AttendShape, default_config
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring, attend_pages_reference
from mindpress.kernels.cache_write import gpu
from mindpress.kernels.cache_write.gpu import write_keys_values_triton, write_pages_triton
from mindpress.kernels.cache_write.kernel import write_kernel
from mindpress.kernels.cache_write.paged import write_pages_reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAGE, KV_HEADS = 16, 2
KINDS = ["16 float", "8 token", "8 channel", "8 head symmetric"]
KINDS += ["4 token", "4 token symmetric", "4 head", "4 channel"]
NAN = float("nan")
FLOAT16 = torch.float16
CONFIG = AttendConfig(16, 32)


@pytest.fixture(autouse=True)
def _new_memory_is_nan():
    """Outputs and workspaces: what is read before it is written shows."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


def random(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def poisoned(
    kind: str, x: torch.Tensor, pages: int, by_channel: bool, page: int = PAGE
) -> CachePages:
    """Empty pages for numbers like `x`, [tokens, kv heads, channels]; `kind`: "8 token"."""
    bits, granularity, *symmetric = kind.split()
    shape = PageShape(pages, x.shape[1], page, x.shape[2], by_channel)
    if bits == "16":
        made = float_pages(shape, x.dtype, DEVICE)
        made.data.fill_(NAN)
        return made
    if granularity == "channel" and by_channel:
        granularity = "token"
    spec = CacheSpec(int(bits), symmetric=bool(symmetric), granularity=granularity)
    if granularity == "token":
        made = online_pages(shape, spec, DEVICE)
        made.scale.fill_(NAN)
        if made.low is not None:
            made.low.fill_(NAN)
    else:
        low, high = grid(x.float(), granularity)
        made = fixed_pages(shape, spec, (high - low) / spec.largest, (high + low) / 2)
    made.data.fill_(0xA5)
    return made


def grid(x, granularity):
    if granularity == "channel":
        return x.amin(0), x.amax(0)
    return x.amin((0, 2)).unsqueeze(-1), x.amax((0, 2)).unsqueeze(-1)


def copied(pages: CachePages) -> CachePages:
    data, scale, low = (
        None if part is None else part.clone() for part in (pages.data, pages.scale, pages.low)
    )
    return replace(pages, data=data, scale=scale, low=low)


def same(left: CachePages, right: CachePages) -> bool:
    """Bit by bit, what was never written included."""
    pairs = ((left.data, right.data), (left.scale, right.scale), (left.low, right.low))
    return all(
        one is None or torch.equal(one.view(torch.uint8), other.view(torch.uint8))
        for one, other in pairs
    )


@pytest.mark.parametrize("by_channel", [False, True], ids=["by token", "by channel"])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_written_as_the_reference_does(kind, by_channel):
    """A prompt that ends within a page, and more of it: tokens share bytes within and across."""
    x = 3 * random(7, KV_HEADS, 66 if kind == "4 token" else 64) + 0.3
    x[1] = 0.75
    x = x.half()
    expected = poisoned(kind, x, 5, by_channel, 4)
    got = copied(expected)
    slots = slots_of(torch.tensor([4, 0], device=DEVICE), 0, 7, 4)
    nothing = torch.full_like(x[:1], NAN)
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        padded = torch.cat((slots[:1] * 0 - 1, slots[part], slots[:1] * 0 - 3))
        rows = torch.cat((nothing, x[part], nothing))
        write_pages_reference(expected, padded, rows)
        write_pages_triton(got, padded, rows)
    assert same(got, expected)


def test_rows_of_many_sequences_are_written_in_one_launch():
    """Decoding: slots in no order, halves of bytes that others wrote kept; rows lie apart."""
    fused = random(5, 3 * KV_HEADS * 64).half().unflatten(1, (-1, 64))
    keys, values = fused[:, KV_HEADS : 2 * KV_HEADS], fused[:, 2 * KV_HEADS :]
    expected = [poisoned("4 token", keys, 6, by_channel) for by_channel in (False, True)]
    got = [copied(pages) for pages in expected]
    slots = torch.tensor([70, 3, -1, 27, 92], device=DEVICE)
    for pages, x in zip(expected, (keys, values), strict=True):
        write_pages_reference(pages, slots, x)
    write_keys_values_triton(*got, slots, keys, values)
    assert all(same(*pair) for pair in zip(got, expected, strict=True))


def test_of_tokens_that_share_a_byte_one_program_writes(monkeypatch):
    """Programs run one after the other here: what the first does alone shows who writes."""

    class FirstRow:
        def __getitem__(self, grid):
            return write_kernel[(1, *grid[1:])]

    monkeypatch.setattr(gpu, "write_kernel", FirstRow())
    x = random(4, KV_HEADS, 64)
    expected, slots = poisoned("4 token", x, 1, True, 4), torch.arange(4, device=DEVICE)
    for order in (slots, slots.roll(2)):
        got = copied(expected)
        write_pages_triton(got, order, x[order])
        assert bool((got.data[..., 1] == 0xA5).all())
        if order[0] == 0:
            first = got.data[..., 0].clone()
        else:
            # The first row's partner is before it in its page but not in this call.
            assert bool((got.data[..., 0] & 15 == 5).all())
    write_pages_reference(expected, slots, x)
    assert torch.equal(first, expected.data[..., 0])


@pytest.mark.parametrize("symmetric", ["", " symmetric"])
def test_codes_at_the_edge_of_a_step_are_rounded_to_even(symmetric):
    x = (torch.arange(64, device=DEVICE) / 4 % 15.5).expand(3, KV_HEADS, 64).contiguous().half()
    expected = poisoned("4 head" + symmetric, x, 1, False)
    expected.scale.fill_(1.0)
    expected.low.fill_(0.0)
    got, slots = copied(expected), torch.arange(3, device=DEVICE)
    write_pages_reference(expected, slots, x)
    write_pages_triton(got, slots, x)
    assert same(got, expected)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_what_is_not_finite_stays_to_be_found(bad):
    x = random(2, KV_HEADS, 64)
    x[1, 0, 40] = bad
    pages = poisoned("8 token", x, 1, False)
    write_pages_triton(pages, torch.arange(2, device=DEVICE), x)
    assert not (pages.scale[0, 0, 1].isfinite() and pages.low[0, 0, 1].isfinite())
    assert pages.scale[0, :, 0].isfinite().all()


@dataclass
class Case:
    """Sequences of `lengths`, the last `rows` of each being those of this step."""

    kind: str
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    group: int = 4
    channels: int = 64
    window: int | None = None
    cap: float | None = None
    config: AttendConfig | None = CONFIG
    scale: float = 0.2
    dtype: torch.dtype = FLOAT16

    def made(self):
        """Query, keys, values, batch: the pages in no order."""
        x = random(2, max(1, sum(self.lengths)), KV_HEADS, self.channels).to(self.dtype) + 0.5
        counts = [-(-length // PAGE) for length in self.lengths]
        order = torch.randperm(sum(counts) + 1, device=DEVICE)
        # Far beyond the pages: what means nothing must not be read.
        table = torch.full((len(counts), max(counts) + 2), 2**30, dtype=torch.int32, device=DEVICE)
        pages = [poisoned(self.kind, x[i], sum(counts) + 1, bool(i)) for i in (0, 1)]
        begin, used = 0, 0
        for index, (length, count) in enumerate(zip(self.lengths, counts, strict=True)):
            table[index, :count] = order[used : used + count]
            slots = slots_of(table[index], 0, length, PAGE)
            for which, into in enumerate(pages):
                write_pages_reference(into, slots, x[which, begin : begin + length])
            begin, used = begin + length, used + count
            if self.window is not None:
                table[index, : max(0, length - self.rows[index] + 1 - self.window) // PAGE] = -(
                    2**30
                )
        heads = KV_HEADS * self.group
        query = (2 * random(sum(self.rows), heads, self.channels, seed=1)).to(self.dtype)
        starts = torch.tensor([0, *self.rows]).cumsum(0).int().to(DEVICE)
        lengths = torch.tensor(self.lengths, dtype=torch.int32, device=DEVICE)
        batch = PagedBatch(starts, lengths, table, max(self.rows), max(self.lengths))
        return query, *pages, batch

    def run(self):
        """What the kernel gives and what the reference does, in float64."""
        query, keys, values, batch = self.made()
        scoring = Scoring(self.scale, self.window, self.cap)
        got = attend_pages_triton(query, keys, values, batch, scoring, self.config)
        # Table entries mean nothing to the kernel that the reference reads to throw away.
        table = batch.table.where((batch.table >= 0) & (batch.table < 2**30), 0)
        for pages in (keys, values):
            for part in (pages.data, pages.scale, pages.low):
                if part is not None and part.is_floating_point():
                    part.nan_to_num_(0.0)
        wide = replace(batch, table=table)
        return got.double(), attend_pages_reference(query.double(), keys, values, wide, scoring)


def error(got, expected):
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_attention(kind):
    """Lengths around a page and block; a part of the heads of the tile are padding."""
    assert error(*Case(kind, (17, 70, 1), (1, 1, 1), group=7).run()) < 5e-4


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 33])
def test_every_length_is_attended_to_its_end(length):
    assert error(*Case("8 token", (length,), (1,), group=1).run()) < 5e-4


@pytest.mark.parametrize("kind", ["16 float", "8 token", "4 token symmetric"])
def test_programs_share_a_long_past(kind):
    """More parts than blocks: some have nothing. A sequence of one token, and one of padding."""
    config = AttendConfig(16, 16, parts=4)
    got, expected = Case(kind, (49, 0, 1), (1, 0, 1), group=3, config=config).run()
    assert error(got, expected) < 5e-4


@pytest.mark.parametrize(("window", "length", "parts"), [(1, 33, 1), (20, 70, 2), (16, 48, 1)])
@pytest.mark.parametrize("kind", ["16 float", "4 token"])
def test_only_the_window_is_read(kind, window, length, parts):
    config = AttendConfig(16, 32, parts=parts)
    case = Case(kind, (length,), (1,), window=window, config=config)
    assert error(*case.run()) < 5e-4


@pytest.mark.parametrize("kind", ["16 float", "8 channel", "4 token"])
@pytest.mark.parametrize(("window", "cap"), [(None, None), (5, None), (20, 3.0)])
def test_rows_of_prompts_are_causal(kind, window, cap):
    """Tiles within and across rows; whole blocks that some rows, but not all, see."""
    case = Case(kind, (40, 20), (23, 5), group=1, window=window, cap=cap)
    assert error(*case.run()) < 5e-4


@pytest.mark.parametrize("kind", ["16 float", "8 token", "4 channel"])
@pytest.mark.parametrize("channels", [24, 66, 96])
def test_heads_of_other_sizes(kind, channels):
    """Made up to a power of 2; 66 channels are not even whole words."""
    assert error(*Case(kind, (37,), (1,), channels=channels).run()) < 5e-4


@pytest.mark.parametrize(("factor", "scale"), [(30000.0, 1e-5), (1e-5, 3e4)])
def test_queries_of_every_size_fit_float16(factor, scale):
    """Channels' scales and queries multiply beyond 65504 and below 6e-8."""
    case = Case("8 channel", (33,), (1,), scale=scale)
    query, keys, values, batch = case.made()
    query = query.clamp(-2, 2).float() * factor * 3
    scoring = Scoring(scale)
    got = attend_pages_triton(query, keys, values, batch, scoring, case.config)
    for part in (values.scale, values.low):
        part.nan_to_num_(0.0)
    assert error(got, attend_pages_reference(query.double(), keys, values, batch, scoring)) < 5e-4


def test_bfloat16_is_attended_in_its_own_precision():
    """The interpreter cuts off what bfloat16 rounds: 2^-8 of a number."""
    case = Case("16 float", (37, 5), (1, 1), dtype=torch.bfloat16)
    assert error(*case.run()) < 2**-8
    assert error(*replace(case, kind="8 token").run()) < 2**-8


def test_nothing_is_computed_for_nothing():
    query, keys, values, batch = Case("8 token", (17,), (1,)).made()
    none = replace(batch, starts=batch.starts * 0, most_rows=0)
    made = attend_pages_triton(query[:0], keys, values, none, Scoring(1.0))
    assert made.shape == (0, 4 * KV_HEADS, 64)


@pytest.mark.parametrize("what", ["layout", "page", "bits", "heads"])
def test_other_layouts_are_refused(what):
    query, keys, values, batch = Case("8 token", (17,), (1,)).made()
    if what == "layout":
        keys = values
    elif what == "page":
        keys = replace(keys, shape=replace(keys.shape, tokens=24))
    elif what == "bits":
        keys = replace(keys, spec=CacheSpec(4))
    else:
        query = query[:, :3].contiguous()
    with pytest.raises(ConfigError):
        attend_pages_triton(query, keys, values, batch, Scoring(1.0))


def test_a_long_past_of_few_is_shared_and_a_short_one_of_many_not():
    few = AttendShape(8, 128, 64, 4, 8, 1, 1, 32768)
    assert default_config(90, few).parts == 33
    assert default_config(90, replace(few, sequences=64)).parts == 1
    assert default_config(90, replace(few, longest=100)).parts == 1
    assert default_config(90, replace(few, page=128)).block == 128
    assert default_config(90, replace(few, most_rows=512)).rows > default_config(90, few).rows
