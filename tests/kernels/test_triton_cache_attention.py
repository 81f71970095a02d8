"""The kernels that attend over pages, in Triton's interpreter, against the reference.

Tables name no page where they mean nothing.
"""

from dataclasses import dataclass, replace

import pytest

pytest.importorskip("triton", reason="no Triton")

import torch
from poisoned_pages import DEVICE, KINDS, KV_HEADS, PAGE, poisoned, random

from mindpress.errors import ConfigError
from mindpress.formats.cache_pages import slots_of
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention.gpu import attend_pages_triton
from mindpress.kernels.cache_attention.launch import AttendConfig, AttendShape, default_config
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring, attend_pages_reference
from mindpress.kernels.cache_write.paged import write_pages_reference

FLOAT16 = torch.float16
CONFIG = AttendConfig(16, 32)
pytestmark = pytest.mark.usefixtures("new_memory_is_nan")


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
