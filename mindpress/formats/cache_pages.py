"""Keys or values of a layer in pages that sequences take and give back: what paged kernels read.

A slot is the place of a token: page * tokens of a page + place in the page.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindpress.formats.cache_codes import bytes_per_head
from mindpress.formats.cache_spec import CacheSpec

PerHead = Float[Tensor, "kv_heads channels"]


@dataclass(frozen=True, slots=True)
class PageShape:
    """How many pages, for how many heads, of how many tokens (even) and channels.

    `by_channel`: the numbers of a channel lie side by side, one for each token of the page; else
    those of a token do, one for each channel.
    """

    pages: int
    kv_heads: int
    tokens: int
    channels: int
    by_channel: bool = False

    @property
    def rows(self) -> tuple[int, int]:
        """Of one page and head: how many rows, and how many numbers lie side by side in each."""
        if self.by_channel:
            return self.channels, self.tokens
        return self.tokens, self.channels


@dataclass(frozen=True, slots=True)
class CachePages:
    """A number is scale * u + low, u being its code; without a spec `data` are floats.

    `data` is [pages, kv heads, *rows]. Codes of 4 bits are packed within a row: byte i has number i
    in its low half and number i + width/2 in the high half. Online scales belong to a token and
    head: float16 [pages, kv heads, tokens]. `fixed` ones were calibrated: float32 [kv heads,
    channels or 1]. `low` None: a symmetric range, low is -middle * scale.
    """

    shape: PageShape
    spec: CacheSpec | None
    data: Tensor
    scale: Tensor | None = None
    low: Tensor | None = None
    fixed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, online scales included."""
        held = [self.data]
        if not self.fixed:
            held += [part for part in (self.scale, self.low) if part is not None]
        return sum(part.nbytes for part in held)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token in all heads."""
        return self.nbytes // (self.shape.pages * self.shape.tokens)


def float_pages(shape: PageShape, dtype: torch.dtype, device: torch.device) -> CachePages:
    """Empty pages of floats."""
    size = shape.pages, shape.kv_heads, *shape.rows
    return CachePages(shape, None, torch.empty(size, dtype=dtype, device=device))


def online_pages(shape: PageShape, spec: CacheSpec, device: torch.device) -> CachePages:
    """Empty pages whose scales belong to a token and head."""
    size = shape.pages, shape.kv_heads, shape.tokens
    scale = torch.empty(size, dtype=torch.float16, device=device)
    low = None if spec.symmetric else torch.empty_like(scale)
    return CachePages(shape, spec, _no_codes(shape, spec, device), scale, low)


def fixed_pages(shape: PageShape, spec: CacheSpec, scale: PerHead, zero: PerHead) -> CachePages:
    """Empty pages of calibrated scales and zero points; their `channels` may be 1."""
    low = zero - spec.middle * scale
    codes = _no_codes(shape, spec, scale.device)
    return CachePages(shape, spec, codes, scale.float(), low.float(), fixed=True)


def slots_of(
    table: Int[Tensor, " pages"], begin: int, end: int, tokens: int
) -> Int[Tensor, " slots"]:
    """Where the positions `begin` to `end` of a sequence lie that has the pages of `table`."""
    positions = torch.arange(begin, end, device=table.device)
    return table[positions // tokens].long() * tokens + positions % tokens


def _no_codes(shape: PageShape, spec: CacheSpec, device: torch.device) -> Tensor:
    rows, width = shape.rows
    size = shape.pages, shape.kv_heads, rows, bytes_per_head(width, spec.bits)
    return torch.empty(size, dtype=torch.uint8, device=device)
