"""Store keys or values of new tokens in pages on the CPU, by the compiled library.

Bytes moved per call: x once, its codes and scales once; it aims at the bandwidth of memory.
"""

import ctypes

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.native.call import check, how, library_for
from mindpress.kernels.native.pages import structure_of


@torch.no_grad()
def write_pages_cpu(
    into: CachePages,
    slots: Int[Tensor, " rows"],
    x: Float[Tensor, "rows kv_heads channels"],
    threads: int = 0,
) -> None:
    """`write_pages_reference`, bit for bit; `threads` 0: as many as torch uses.

    Peak memory: a float32 copy of `x` where it is not that already. Raises ConfigError for pages
    it does not write, InputError for slots beyond them, ResourceError where nothing was compiled.
    """
    library = library_for("writing pages")
    if x.shape[1:] != (into.shape.kv_heads, into.shape.channels):
        raise InputError(f"rows of {tuple(x.shape[1:])} do not fit pages of {into.shape}")
    pages, numbers = structure_of(into), x.float().contiguous()
    places = slots.to(torch.int64).contiguous()
    set_number, count = how(threads)
    done = library.write_pages(
        ctypes.byref(pages), places.data_ptr(), numbers.data_ptr(), len(numbers), set_number, count
    )
    check(done, "writing pages", set_number)
