"""Pages of a cache as the library reads them."""

import torch
from torch import Tensor

from mindpress.errors import ConfigError
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.native.structures import Pages

FLOATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
CODES = {8: 3, 4: 4}


def structure_of(stored: CachePages) -> Pages:
    """Addresses of its tensors, which must outlive it.

    ConfigError for pages by channel, of other floats, on another device or of an odd head size.
    """
    shape = stored.shape
    kinds = FLOATS.get(stored.data.dtype) if stored.spec is None else CODES[stored.spec.bits]
    if shape.by_channel or kinds is None or shape.channels % 2 != 0:
        raise ConfigError(
            "the CPU kernels read pages by token of float32, float16, bfloat16 or codes, of an "
            f"even head size; not {stored.data.dtype} by {'channel' * shape.by_channel or 'token'}"
            f" of size {shape.channels}"
        )
    parts = [stored.data, stored.scale, stored.low]
    if any(part is not None and part.device.type != "cpu" for part in parts):
        raise ConfigError("the CPU kernels read pages in the memory of the CPU")
    if not all(part is None or part.is_contiguous() for part in parts):
        raise ConfigError("the CPU kernels read pages that are contiguous")
    fixed = stored.scale.shape[-1] if stored.fixed and stored.scale is not None else 0
    sizes = shape.pages, shape.kv_heads, shape.tokens, shape.channels
    _check_sizes(stored, (shape.kv_heads, fixed) if fixed else sizes[:3])
    return Pages(*(_address(part) for part in parts), *sizes, kinds, fixed)


def _check_sizes(stored: CachePages, scales: tuple[int, ...]) -> None:
    """What is addressed is there: the library does not know where tensors end."""
    shape, kind = stored.shape, torch.float32 if stored.fixed else torch.float16
    bits = stored.data.itemsize * 8 if stored.spec is None else stored.spec.bits
    numbers = shape.pages * shape.kv_heads * shape.tokens * shape.channels
    fits = stored.data.nbytes == numbers * bits // 8
    for part in (stored.scale, stored.low):
        fits = fits and (part is None or (part.shape == scales and part.dtype == kind))
    if not fits:
        raise ConfigError(f"codes, scales and zero points do not fit pages of {shape}")


def _address(part: Tensor | None) -> int | None:
    return None if part is None else part.data_ptr()
