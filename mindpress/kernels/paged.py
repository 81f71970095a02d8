"""Which kernels write and read pages of a cache."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_attention.paged import (
    PagedBatch,
    Scoring,
    attend_pages_reference,
)
from mindpress.kernels.cache_write.paged import write_pages_reference
from mindpress.kernels.dispatch import Kernels

Heads = Float[Tensor, "rows heads channels"]

# A page is what sequences share and what is left empty at their ends.
CPU_PAGE = 32
GPU_PAGE = 64


@dataclass(frozen=True, slots=True)
class PagedOperations:
    """How pages are written and read; `by_channel` is how those of values lie.

    `rotate_and_write`, where there is one, does all that comes before attention in one launch.
    """

    write: Callable[[CachePages, Int[Tensor, " rows"], Heads], None]
    attend: Callable[[Heads, CachePages, CachePages, PagedBatch, Scoring], Heads]
    by_channel: bool
    page_tokens: int
    rotate_and_write: Callable[..., Heads] | None = None


def paged_operations(kernels: Kernels) -> PagedOperations:
    """Those that go with what multiplies: nothing is chosen a second time."""
    if kernels.name == "triton":
        from mindpress.kernels.cache_attention.gpu import attend_pages_triton
        from mindpress.kernels.cache_write.gpu import write_pages_triton
        from mindpress.kernels.rotary_write.gpu import rotate_and_write_triton

        return PagedOperations(
            write_pages_triton, attend_pages_triton, True, GPU_PAGE, rotate_and_write_triton
        )
    if kernels.name == "cpu":
        from mindpress.kernels.cache_attention.cpu import attend_pages_cpu
        from mindpress.kernels.cache_write.cpu import write_pages_cpu

        return PagedOperations(write_pages_cpu, attend_pages_cpu, False, CPU_PAGE)
    return PagedOperations(write_pages_reference, attend_pages_reference, False, CPU_PAGE)
