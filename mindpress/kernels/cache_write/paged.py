"""Store keys or values of new tokens in pages, in plain torch: what the paged kernels must do."""

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mindpress.formats.cache_codes import pack
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_write.reference import codes_of, token_scales

Rows = Float[Tensor, "rows kv_heads channels"]
PerRow = Int[Tensor, " rows"]


def write_pages_reference(into: CachePages, slots: PerRow, x: Rows) -> None:
    """Store row i of `x` at slot i; rows whose slot is negative are padding and are left out.

    Codes and scales are those of `write_tokens`. No two rows may have the same slot.
    """
    kept = slots >= 0
    x, slots = x[kept], slots[kept].long()
    pages, places = slots // into.shape.tokens, slots % into.shape.tokens
    if into.spec is None or into.scale is None:
        numbers = x.to(into.data.dtype)
    else:
        scale, low = into.scale, into.low
        if not into.fixed:
            where = pages, slice(None), places
            scale, low = _online(scale, low, where, token_scales(x.float(), into.spec))
        numbers = codes_of(x.float(), scale, low, into.spec)
    _store(into, pages, places, numbers)


def _online(
    scale: Tensor,
    low: Tensor | None,
    where: tuple[Tensor, slice, Tensor],
    made: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor | None]:
    """Store new scales; what float16 made of them."""
    for into, numbers in zip((scale, low), made, strict=True):
        if into is not None:
            into[where] = numbers.squeeze(-1).half()
    rounded = tuple(part.half().float() for part in made)
    return rounded[0], None if low is None else rounded[1]


def _store(
    into: CachePages,
    pages: PerRow,
    places: PerRow,
    numbers: Shaped[Tensor, "rows kv_heads channels"],
) -> None:
    four_bits = into.spec is not None and into.spec.bits == 4
    if not into.shape.by_channel:
        into.data[pages, :, places] = pack(numbers, 4) if four_bits else numbers
    elif not four_bits:
        into.data[pages, :, :, places] = numbers
    else:
        _store_halves(into, pages, places, numbers)


def _store_halves(into: CachePages, pages: PerRow, places: PerRow, codes: Tensor) -> None:
    """Two tokens share a byte: first those of the low halves, then those of the high ones."""
    width = into.shape.tokens // 2
    for shift, rows in ((0, places < width), (4, places >= width)):
        where = pages[rows], slice(None), slice(None), places[rows] % width
        other = into.data[where] & (240 >> shift)
        into.data[where] = other | (codes[rows] << shift)
