"""The compiled kernels of a cache in pages against the references."""

import math
from dataclasses import replace

import pytest
import torch

from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.formats.cache_pages import (
    PageShape,
    fixed_pages,
    float_pages,
    online_pages,
    slots_of,
)
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention.cpu import attend_pages_cpu
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring, attend_pages_reference
from mindpress.kernels.cache_write.cpu import write_pages_cpu
from mindpress.kernels.cache_write.paged import write_pages_reference
from mindpress.kernels.native import call, library

CPU = torch.device("cpu")
NAN = float("nan")
TOKENS, HEADS = 6, 2
FLOATS = ["float32", "float16", "bfloat16"]
CODES = [
    f"{name} {bits}" for bits in (8, 4) for name in ("token", "token symmetric", "head", "channel")
]
KINDS = pytest.mark.parametrize("kind", FLOATS + CODES)
# Whole registers of every instruction set, parts of one, and an odd number in the halves of int4.
CHANNELS = pytest.mark.parametrize("channels", [10, 64, 80])


@pytest.fixture(params=library.INSTRUCTION_SETS[1:])
def instructions(request, native, monkeypatch):
    if request.param not in native.instruction_sets:
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(call, "INSTRUCTIONS", request.param)
    return request.param


def gaussian(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed + math.prod(size)))


def empty_pages(kind, pages, channels):
    """Poisoned: no float is a number, no scale either."""
    shape = PageShape(pages, HEADS, TOKENS, channels)
    if kind in FLOATS:
        made = float_pages(shape, getattr(torch, kind), CPU)
        made.data.fill_(NAN)
        return made
    granularity, *symmetric, bits = kind.split()
    spec = CacheSpec(int(bits), bool(symmetric), granularity)
    if granularity == "token":
        made = online_pages(shape, spec, CPU)
        for part in (made.scale, made.low):
            if part is not None:
                part.fill_(NAN)
    else:
        size = HEADS, channels if granularity == "channel" else 1
        scale = (gaussian(*size, seed=1).abs() + 3) / spec.largest
        made = fixed_pages(shape, spec, scale, gaussian(*size, seed=2) * 0.1)
    made.data.fill_(0xA5)
    return made


def batch_of(lengths, rows, channels, kinds, write=write_pages_reference):
    """Keys, values and who has which pages; table entries beyond a sequence mean nothing."""
    used = [-(-length // TOKENS) for length in lengths]
    keys, values = (empty_pages(kind, sum(used) + 3, channels) for kind in kinds)
    order = torch.randperm(sum(used) + 3, generator=torch.Generator().manual_seed(3))
    table = torch.full((len(lengths), max(used) + 1), -(10**9))
    for index, length in enumerate(lengths):
        begin = sum(used[:index])
        table[index, : used[index]] = order[begin : begin + used[index]]
        slots = slots_of(table[index], 0, length, TOKENS)
        for seed, pages in enumerate((keys, values)):
            write(pages, slots, gaussian(length, HEADS, channels, seed=seed))
    starts = torch.tensor([0, *rows]).cumsum(0).int()
    batch = PagedBatch(starts, torch.tensor(lengths), table, max(rows), max(lengths))
    return keys, values, batch


def distance(found, expected):
    """Of the worst row and head, as a part of it."""
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


def check(query, keys, values, batch, scoring, threads=2):
    expected = attend_pages_reference(query.double(), keys, values, batch, scoring)
    found = attend_pages_cpu(query, keys, values, batch, scoring, threads)
    taken = slice(0, int(batch.starts[-1]))
    assert distance(found[taken], expected[taken]) < 1e-5
    assert not found[taken.stop :].any()
    return found


@KINDS
@CHANNELS
@pytest.mark.parametrize("group", [1, 3])
def test_attention_equals_the_reference(instructions, kind, channels, group):
    """Decoding, few rows, a padding, a prompt, and a prompt after others, in one step."""
    keys, values, batch = batch_of([13, 1, 7, 65, 63], [1, 1, 0, 65, 3], channels, (kind, kind))
    query = gaussian(int(batch.starts[-1]) + 2, group * HEADS, channels)
    check(query, keys, values, batch, Scoring(channels**-0.5))


@pytest.mark.parametrize("kind", ["float32", "token 8"])
@pytest.mark.parametrize("window", [None, 1, 5, 70])
@pytest.mark.parametrize("cap", [None, 0.5])
def test_windows_and_caps(instructions, kind, window, cap):
    keys, values, batch = batch_of([9, 200], [2, 130], 16, (kind, kind))
    query = gaussian(132, 2 * HEADS, 16) * 3
    check(query, keys, values, batch, Scoring(0.25, window, cap))


def test_keys_and_values_of_different_kinds(instructions):
    keys, values, batch = batch_of([20], [20], 64, ("channel 8", "token 4"))
    check(gaussian(20, HEADS, 64), keys, values, batch, Scoring(0.125))


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_long_context_in_several_parts(instructions, rows):
    keys, values, batch = batch_of([2600, 5], [rows, 1], 16, ("token 8", "token 8"))
    query = gaussian(rows + 1, HEADS, 16)
    check(query, keys, values, batch, Scoring(0.25))
    check(query, keys, values, batch, Scoring(0.25, window=1500))


@pytest.mark.parametrize("kind", ["float32", "token 8", "channel 4"])
def test_threads_change_no_bit(instructions, kind):
    keys, values, batch = batch_of([2600, 130, 9], [1, 130, 2], 16, (kind, kind))
    query = gaussian(133, 2 * HEADS, 16)
    alone = attend_pages_cpu(query, keys, values, batch, Scoring(0.25), 1)
    for threads in (2, 5):
        found = attend_pages_cpu(query, keys, values, batch, Scoring(0.25), threads)
        assert torch.equal(found, alone)


@pytest.mark.parametrize("kind", ["float32", "float16", "token 8", "token symmetric 4"])
@pytest.mark.parametrize("rows", [1, 33])
def test_what_no_row_sees_is_not_read(instructions, kind, rows):
    """Pages out of the window, with numbers that would spoil every sum, and pages given back."""
    keys, values, batch = batch_of([90], [rows], 16, (kind, kind))
    query, scoring = gaussian(rows, HEADS, 16), Scoring(0.25, window=7)
    before = attend_pages_cpu(query, keys, values, batch, scoring)
    forgotten = (90 - rows + 1 - 7) // TOKENS
    gone = batch.table[0, :forgotten]
    for pages in (keys, values):
        for part in (pages.data, pages.scale, pages.low):
            if part is not None:
                part[gone] = NAN if part.is_floating_point() else 0x5A
    batch.table[0, :forgotten] = -1
    assert torch.equal(attend_pages_cpu(query, keys, values, batch, scoring), before)


@pytest.mark.parametrize("kind", ["token 8", "token symmetric 4"])
def test_rows_before_a_token_that_is_no_number_do_not_see_it(instructions, kind):
    keys, values, batch = batch_of([40], [40], 16, (kind, kind))
    query = gaussian(40, HEADS, 16)
    before = attend_pages_cpu(query, keys, values, batch, Scoring(0.25))
    slot = slots_of(batch.table[0], 38, 39, TOKENS)
    for pages in (keys, values):
        write_pages_reference(pages, slot, torch.full((1, HEADS, 16), NAN))
    found = attend_pages_cpu(query, keys, values, batch, Scoring(0.25))
    assert torch.equal(found[:38], before[:38])
    assert found[38:].isnan().all()


def test_every_row_is_written(instructions, monkeypatch):
    keys, values, batch = batch_of([9, 40], [1, 40], 10, ("token 8", "token 8"))
    query = gaussian(44, HEADS, 10)
    expected = attend_pages_cpu(query, keys, values, batch, Scoring(0.3))
    rooms = []

    def poisoned(self, size):
        rooms.append(torch.full((math.prod(size) + 128,), NAN))
        return rooms[-1][64:-64].view(size)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    found = attend_pages_cpu(query, keys, values, batch, Scoring(0.3))
    monkeypatch.undo()
    assert torch.equal(found, expected)
    assert len(rooms) == 1
    assert rooms[0][:64].isnan().all()
    assert rooms[0][-64:].isnan().all()


def test_very_different_scores(instructions):
    """Softmax over scores from -80 to 80: the largest of a later part decides."""
    keys, values, batch = batch_of([300], [2], 16, ("float32", "float32"))
    slots = slots_of(batch.table[0], 0, 300, TOKENS)
    rising = torch.linspace(-5, 5, 300).view(300, 1, 1).expand(300, HEADS, 16).contiguous()
    write_pages_reference(keys, slots, rising)
    check(torch.ones(2, HEADS, 16), keys, values, batch, Scoring(1.0))
    check(-torch.ones(2, HEADS, 16), keys, values, batch, Scoring(1.0, cap=60.0))


def test_exp_and_tanh_are_precise(instructions):
    """Two positions, values 0 and 1: the result is 1 / (1 + exp(cap tanh(score / cap)))."""
    score = torch.cat((torch.linspace(0, 80, 400), torch.logspace(-6, 0, 100)))
    keys, values, batch = batch_of([2], [1], 2, ("float32", "float32"))
    slots = slots_of(batch.table[0], 0, 2, TOKENS)
    numbers = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, HEADS, 2).contiguous()
    write_pages_reference(values, slots, numbers)
    write_pages_reference(keys, slots, 1 - numbers)
    many = replace(
        batch,
        starts=torch.arange(len(score) + 1),
        lengths=torch.full((len(score),), 2),
        table=batch.table.expand(len(score), -1),
    )
    query = torch.zeros(len(score), HEADS, 2)
    query[:, :, 0] = score.unsqueeze(1)
    found = attend_pages_cpu(query, keys, values, many, Scoring(1.0))[:, 0, 0].double()
    wanted = 1 / (1 + score.double().exp())
    assert ((found - wanted).abs() / wanted)[wanted > 1e-37].max() < 4e-7
    found = attend_pages_cpu(query, keys, values, many, Scoring(1.0, cap=1.0))[:, 0, 0].double()
    wanted = 1 / (1 + score.double().tanh().exp())
    assert ((found - wanted).abs() / wanted).max() < 4e-7


@KINDS
@CHANNELS
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e38])
def test_writing_equals_the_reference_bit_for_bit(instructions, kind, channels, size):
    x = gaussian(65, HEADS, channels) * size
    x[3], x[4] = 0.0, 2.5
    x[5, 0, 0], x[6, 1, 1], x[7, 0, 1] = NAN, float("inf"), -float("inf")
    x[9, 0, -1], x[11, 1, channels // 2], x[12, 0, 1] = NAN, NAN, NAN
    x[13] = size * (1 + torch.arange(channels) * 2.0**-11)  # float16 has nothing between two
    x[8, :, ::2] = x[8, :, 1::2]
    slots = torch.randperm(20 * TOKENS, generator=torch.Generator().manual_seed(4))[:65]
    slots[10] = -1
    x[10] = NAN
    found, expected = (empty_pages(kind, 20, channels) for _ in range(2))
    write_pages_reference(expected, slots, x)
    write_pages_cpu(found, slots, x, 2)
    for name in ("data", "scale", "low"):
        one, other = getattr(found, name), getattr(expected, name)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_writing_takes_any_order_and_type(instructions):
    x = gaussian(16, 9, HEADS).permute(1, 2, 0).half()
    found, expected = (empty_pages("token 8", 3, 16) for _ in range(2))
    slots = torch.randperm(18)[:9].int()
    write_pages_reference(expected, slots, x)
    write_pages_cpu(found, slots, x)
    assert torch.equal(found.data, expected.data)


def test_written_pages_are_attended(native):
    """Both kernels together, with many rows and threads."""
    keys, values, batch = batch_of([700], [90], 16, ("token 4", "token 8"), write_pages_cpu)
    check(gaussian(90, HEADS, 16), keys, values, batch, Scoring(0.25))


def test_what_does_not_fit_is_refused(native):
    keys, values, batch = batch_of([20], [2], 16, ("token 8", "token 8"))
    query, scoring = gaussian(2, HEADS, 16), Scoring(0.25)
    with pytest.raises(InputError, match="do not fit"):
        attend_pages_cpu(gaussian(2, HEADS + 1, 16), keys, values, batch, scoring)
    outside = replace(batch, table=torch.full_like(batch.table, 99))
    more = replace(batch, starts=torch.tensor([0, 3]))
    short = replace(batch, lengths=torch.tensor([1]))
    for wrong in (outside, more, short):
        with pytest.raises(InputError, match="sizes"):
            attend_pages_cpu(query, keys, values, wrong, scoring)
    with pytest.raises(InputError, match="sizes"):
        write_pages_cpu(keys, torch.tensor([999]), gaussian(1, HEADS, 16))
    with pytest.raises(InputError, match="do not fit"):
        write_pages_cpu(keys, torch.tensor([0]), gaussian(1, HEADS, 8))


def test_pages_that_the_kernels_do_not_read_are_refused(native):
    by_channel = float_pages(PageShape(2, HEADS, TOKENS, 16, by_channel=True), torch.float32, CPU)
    with pytest.raises(ConfigError, match="by channel"):
        write_pages_cpu(by_channel, torch.tensor([0]), gaussian(1, HEADS, 16))
    doubles = float_pages(PageShape(2, HEADS, TOKENS, 16), torch.float64, CPU)
    with pytest.raises(ConfigError, match="float64"):
        write_pages_cpu(doubles, torch.tensor([0]), gaussian(1, HEADS, 16))


def test_tensors_that_do_not_fit_their_pages_are_refused(native):
    online, fixed = empty_pages("token 8", 3, 16), empty_pages("head 8", 3, 16)
    assert online.scale is not None
    assert fixed.low is not None
    for wrong in (
        replace(online, data=online.data[:2]),
        replace(online, scale=online.scale[:, :1].contiguous()),
        replace(online, low=online.scale.float()),
        replace(fixed, low=fixed.low.repeat(1, 16)),
    ):
        with pytest.raises(ConfigError, match="do not fit pages"):
            write_pages_cpu(wrong, torch.tensor([0]), gaussian(1, HEADS, 16))


def test_without_a_library_the_call_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(call, "native", lambda: library.load(tmp_path / "libmindpress.so"))
    with pytest.raises(ResourceError, match="not compiled"):
        write_pages_cpu(empty_pages("float32", 1, 2), torch.tensor([0]), torch.zeros(1, HEADS, 2))
