"""Pages of a cache in no order, full of what is no number, and batches of sequences in them."""

import math

import torch

from mindpress.formats.cache_pages import (
    PageShape,
    fixed_pages,
    float_pages,
    online_pages,
    slots_of,
)
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention.paged import PagedBatch
from mindpress.kernels.cache_write.paged import write_pages_reference

CPU = torch.device("cpu")
NAN = float("nan")
TOKENS, HEADS = 6, 2
FLOATS = ["float32", "float16", "bfloat16"]
CODES = [
    f"{name} {bits}" for bits in (8, 4) for name in ("token", "token symmetric", "head", "channel")
]


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
