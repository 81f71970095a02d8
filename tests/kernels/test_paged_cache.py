"""The paged references against the contiguous ones."""

import pytest
import torch

from mindpress.engine.quantized_cache import fixed_codes, online_codes
from mindpress.formats.cache_pages import (
    CachePages,
    PageShape,
    fixed_pages,
    float_pages,
    online_pages,
    slots_of,
)
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention.paged import (
    PagedBatch,
    Scoring,
    attend_pages_reference,
    positions_of,
)
from mindpress.kernels.cache_write import write_tokens
from mindpress.kernels.cache_write.paged import write_pages_reference

CPU = torch.device("cpu")
HEADS, CHANNELS, TOKENS = 2, 10, 4
TABLE = torch.tensor([5, 0, 3, 6])  # of one sequence, in this order


def grids(granularity, x):
    over = 0 if granularity == "channel" else (0, 2)
    low, high = x.amin(over), x.amax(over)
    if granularity != "channel":
        low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    return low, high


def both(kind, bits, by_channel, x):
    """Empty pages, poisoned, and an empty contiguous cache of the same scales."""
    shape = PageShape(7, HEADS, TOKENS, CHANNELS, by_channel)
    granularity, *symmetric = kind.split()
    spec = CacheSpec(bits, symmetric=bool(symmetric), granularity=granularity)
    if granularity == "token":
        pages = online_pages(shape, spec, CPU)
        pages.scale.fill_(float("nan"))
        plain = online_codes(1, HEADS, CHANNELS, spec, CPU)
    else:
        low, high = grids(granularity, x)
        scale, zero = (high - low) / spec.largest, (high + low) / 2
        pages = fixed_pages(shape, spec, scale, zero)
        plain = fixed_codes(1, CHANNELS, spec, scale, zero)
    pages.data.fill_(0xA5)
    return pages, plain.with_room(len(x), 0)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["token", "token symmetric", "head", "channel"])
def test_pages_hold_what_a_contiguous_cache_does(kind, bits, by_channel):
    x = torch.randn(13, HEADS, CHANNELS, generator=torch.Generator().manual_seed(1)) + 1
    pages, plain = both(kind, bits, by_channel, x)
    before = pages.data.clone()
    write_tokens(plain, 0, x.transpose(0, 1).unsqueeze(0))
    slots = slots_of(TABLE, 0, 13, TOKENS)
    for part in (slice(0, 6), slice(6, 7), slice(7, 13)):
        padded = torch.cat((slots[part], torch.tensor([-1])))
        rows = torch.cat((x[part], torch.full((1, HEADS, CHANNELS), float("nan"))))
        write_pages_reference(pages, padded, rows)
    assert torch.equal(positions_of(pages, TABLE, 13), plain.dequantized()[0])
    others = [1, 2, 4]
    assert torch.equal(pages.data[others], before[others])


@pytest.mark.parametrize("by_channel", [False, True])
def test_floats_are_stored_as_they_are(by_channel):
    x = torch.randn(13, HEADS, CHANNELS, dtype=torch.float16)
    pages = float_pages(PageShape(7, HEADS, TOKENS, CHANNELS, by_channel), torch.float16, CPU)
    write_pages_reference(pages, slots_of(TABLE, 0, 13, TOKENS), x)
    assert torch.equal(positions_of(pages, TABLE, 13), x.transpose(0, 1))
    assert pages.bytes_per_token == HEADS * CHANNELS * 2


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_every_sequence_is_attended_for_itself(window, cap):
    """Two sequences and a padding between them, against torch's attention in float64."""
    x = torch.randn(2, 3, 13, HEADS, CHANNELS, dtype=torch.float64)
    keys, values = (stored(part) for part in x)
    lengths, rows = [13, 7, 9], [3, 0, 9]
    query = torch.randn(sum(rows), 3 * HEADS, CHANNELS, dtype=torch.float64)
    table = torch.stack([torch.randperm(4) + 4 * index for index in range(3)])
    for which, pages in enumerate((keys, values)):
        for index in (0, 2):
            slots = slots_of(table[index], 0, lengths[index], TOKENS)
            write_pages_reference(pages, slots, x[which, index, : lengths[index]])
    batch = PagedBatch(torch.tensor([0, 3, 3, 12]), torch.tensor(lengths), table, 9, 13)
    got = attend_pages_reference(query, keys, values, batch, Scoring(0.3, window, cap))
    expected = [
        plain(query[begin : begin + count], x[:, index, : lengths[index]], window, cap)
        for index, begin, count in ((0, 0, 3), (2, 3, 9))
    ]
    torch.testing.assert_close(got, torch.cat(expected))


def stored(x) -> CachePages:
    pages = float_pages(PageShape(12, HEADS, TOKENS, CHANNELS), torch.float64, CPU)
    pages.data.fill_(float("nan"))
    return pages


def plain(query, keys_and_values, window, cap):
    """One row and head at a time."""
    keys, values = keys_and_values
    past, mixed = len(keys) - len(query), torch.empty_like(query)
    for row in range(len(query)):
        end = past + row + 1
        begin = 0 if window is None else max(0, end - window)
        for head in range(query.shape[1]):
            scores = keys[begin:end, head // 3] @ query[row, head] * 0.3
            if cap is not None:
                scores = cap * torch.tanh(scores / cap)
            mixed[row, head] = scores.softmax(0) @ values[begin:end, head // 3]
    return mixed
