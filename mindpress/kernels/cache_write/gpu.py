"""Store keys and values of new tokens in pages on a GPU, in one launch.

A program has a row of one head. Two tokens of a page share bytes where codes of 4 bits lie along
tokens (values): those half a page apart. When both are in one call, the first writes for both; else
a byte is read and its other half kept. This relies on the order of the rows: those of a page that
come in one call stand in order of their positions, one after the other, as the rows of a prompt do.
Rows of several sequences may follow each other in any order, as they have pages of their own.

Bytes moved: the rows are read once (values of 4 bits twice), codes and scales written once, those
of values by channel as single bytes.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mindpress.errors import ConfigError
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_write.kernel import write_kernel

Rows = Float[Tensor, "rows kv_heads channels"]
PerRow = Int[Tensor, " rows"]


def write_pages_triton(into: CachePages, slots: PerRow, x: Rows) -> None:
    """`write_pages_reference` for rows in order of their positions; the same codes and scales.

    Rows with negative slots are left out. Raises ConfigError for an odd number of channels.
    """
    _launch((into, into), slots, (x, x), both=False)


def write_keys_values_triton(
    keys_pages: CachePages, values_pages: CachePages, slots: PerRow, keys: Rows, values: Rows
) -> None:
    """`write_pages_triton` for keys and for values, in one launch. Raises ConfigError as that."""
    _launch((keys_pages, values_pages), slots, (keys, values), both=True)


def _launch(
    pages: tuple[CachePages, CachePages], slots: PerRow, x: tuple[Rows, Rows], *, both: bool
) -> None:
    keys, values = pages
    rows, kv_heads, channels = x[0].shape
    check(keys, values)
    if rows == 0:
        return
    k, v = (_heads_together(part) for part in x)
    launch: Any = write_kernel  # Triton adds arguments of its own
    launch[(rows, kv_heads)](
        k,
        v,
        slots,
        *operands(keys),
        *operands(values),
        rows,
        k.stride(0),
        v.stride(0),
        VALUES=both,
        HALF=half_of(channels),
        **sizes(keys),
        **constants("KEY", keys),
        **constants("VALUE", values),
        num_warps=1,
    )


def half_of(channels: int) -> int:
    """Half the channels, made up to a power of 2."""
    return 1 << (channels // 2 - 1).bit_length()


def sizes(pages: CachePages) -> dict[str, int]:
    """What keys and values have in common."""
    shape = pages.shape
    bits = 16 if pages.spec is None else pages.spec.bits
    found = {"KV_HEADS": shape.kv_heads, "CHANNELS": shape.channels, "PAGE": shape.tokens}
    return found | {"BITS": bits}


def constants(name: str, pages: CachePages) -> dict[str, bool]:
    """How numbers lie and what shares a scale."""
    vary = pages.fixed and pages.scale is not None and pages.scale.shape[1] > 1
    found = {"BY_CHANNEL": pages.shape.by_channel, "FIXED": pages.fixed, "VARY": vary}
    found["LOWS"] = pages.low is not None
    return {f"{name}_{key}": value for key, value in found.items()}


def operands(pages: CachePages) -> tuple[Tensor, Tensor, Tensor]:
    """Data, scales and lows; something of no meaning where there are none."""
    if pages.spec is None or pages.scale is None:
        return pages.data, pages.data, pages.data
    low = pages.low
    if low is None:
        low = -pages.spec.middle * pages.scale if pages.fixed else pages.scale
    return pages.data, pages.scale, low


def check(keys: CachePages, values: CachePages) -> None:
    """Raises ConfigError for pages that cannot be written in one launch."""
    if keys.shape.channels % 2 or keys.shape.tokens % 2:
        raise ConfigError(
            f"{keys.shape.channels} channels in pages of {keys.shape.tokens} tokens: both are even"
        )
    if sizes(keys) != sizes(values):
        raise ConfigError(f"keys of {sizes(keys)} and values of {sizes(values)}: both are alike")


def _heads_together(x: Rows) -> Rows:
    """Rows may lie apart, as in a fused projection; what belongs to one may not."""
    together = x.stride(2) == 1 and x.stride(1) == x.shape[2]
    return x if together else x.contiguous()
