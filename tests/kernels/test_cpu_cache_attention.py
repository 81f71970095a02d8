"""The compiled kernels that attend over pages, against the reference."""

import math
from dataclasses import replace

import pytest
import torch
from scattered_pages import CODES, FLOATS, HEADS, NAN, TOKENS, batch_of, gaussian

from mindpress.errors import InputError
from mindpress.formats.cache_pages import slots_of
from mindpress.kernels.cache_attention.cpu import attend_pages_cpu
from mindpress.kernels.cache_attention.paged import Scoring, attend_pages_reference
from mindpress.kernels.cache_write.cpu import write_pages_cpu
from mindpress.kernels.cache_write.paged import write_pages_reference

KINDS = pytest.mark.parametrize("kind", FLOATS + CODES)
# Whole registers of every instruction set, parts of one, and an odd number in the halves of int4.
CHANNELS = pytest.mark.parametrize("channels", [10, 64, 80])


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
