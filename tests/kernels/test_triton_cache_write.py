"""The kernel that writes pages, in Triton's interpreter, against the reference."""

from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="no Triton")

import torch
from poisoned_pages import DEVICE, KINDS, KV_HEADS, NAN, poisoned, random

from mindpress.formats.cache_pages import CachePages, slots_of
from mindpress.kernels.cache_write import gpu
from mindpress.kernels.cache_write.gpu import write_keys_values_triton, write_pages_triton
from mindpress.kernels.cache_write.kernel import write_kernel
from mindpress.kernels.cache_write.paged import write_pages_reference

pytestmark = pytest.mark.usefixtures("new_memory_is_nan")


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
