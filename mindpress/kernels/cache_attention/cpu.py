"""Attention over a cache in pages on the CPU, by the compiled library.

Bytes moved per call: the pages that are seen, once per tile of query rows (96 rows times heads of a
group), and queries and results. A decoded token aims at the bandwidth of memory, a prompt at the
processor's float32 products.
"""

import ctypes

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring
from mindpress.kernels.native.call import check, how, library_for
from mindpress.kernels.native.pages import structure_of
from mindpress.kernels.native.structures import Attention


@torch.no_grad()
def attend_pages_cpu(
    query: Float32[Tensor, "rows heads channels"],
    keys: CachePages,
    values: CachePages,
    batch: PagedBatch,
    scoring: Scoring,
    threads: int = 0,
) -> Float32[Tensor, "rows heads channels"]:
    """`attend_pages_reference`, within float32 rounding (about 1e-6 of the largest value).

    `threads` (0: as many as torch uses) changes no bit. Positions that no row of a tile sees are
    not read. Source: Dao 2023, "FlashAttention-2", section 3.1; a long context of few rows is cut
    into up to 16 parts (Dao et al. 2023, "Flash-Decoding"). Peak memory beside the result: per
    thread about 1.5 KiB for each channel, and with parts a result for each of them.
    Raises ConfigError for pages it does not read, InputError for a batch that does not fit them,
    ResourceError where nothing was compiled.
    """
    library = library_for("attention over pages")
    if query.shape[1] % keys.shape.kv_heads != 0 or query.shape[2] != keys.shape.channels:
        raise InputError(f"queries {tuple(query.shape)} do not fit pages of {keys.shape}")
    query = query.contiguous()
    mixed = query.new_empty(query.shape)
    starts, lengths, table = (
        part.to(torch.int64).contiguous() for part in (batch.starts, batch.lengths, batch.table)
    )
    rows, heads, _ = query.shape
    given = (part.data_ptr() for part in (query, mixed, starts, lengths, table))
    sizes = rows, heads, len(lengths), table.shape[1]
    problem = Attention(*given, *sizes, scoring.window or 0, scoring.scale, scoring.cap or 0.0)
    pages = structure_of(keys), structure_of(values)
    set_number, count = how(threads)
    done = library.attend_pages(
        ctypes.byref(problem), *(ctypes.byref(part) for part in pages), set_number, count
    )
    check(done, "attention over pages", set_number)
    return mixed
