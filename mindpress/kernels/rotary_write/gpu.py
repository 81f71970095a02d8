"""Turn queries and keys by their positions and store keys and values on a GPU, in one launch.

A program has a query head of a row, or a kv head of keys and values; what it relies on is said in
`cache_write/gpu.py`. Bytes moved: rows are read and queries written once, codes written once;
the second channel of each pair, and the norm, read from the first cache. One launch where plain
torch has about twelve.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.errors import ConfigError
from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_write.gpu import check, constants, half_of, operands, sizes
from mindpress.kernels.rotary_write.kernel import rotary_write_kernel
from mindpress.kernels.rotary_write.reference import Fused, HeadNorm, PerRow, Table


def rotate_and_write_triton(
    fused: Fused,
    angles: tuple[Table, Table],
    pages: tuple[CachePages, CachePages],
    slots: PerRow,
    norm: HeadNorm | None = None,
) -> Float[Tensor, "rows heads channels"]:
    """`rotate_and_write_reference` for keys that lie by token.

    Codes of turned keys may differ by one where a sum of two products is on the edge of a step.
    Raises ConfigError for other pages and for an odd number of channels.
    """
    keys, values = pages
    shape = keys.shape
    check(keys, values)
    if keys.shape.by_channel:
        raise ConfigError("pages of keys lie by token on a GPU")
    rows, heads = fused.shape[0], fused.shape[1] // shape.channels - 2 * shape.kv_heads
    query = torch.empty((rows, heads, shape.channels), dtype=fused.dtype, device=fused.device)
    if rows == 0:
        return query
    cosines, sines = (table.contiguous() for table in angles)
    launch: Any = rotary_write_kernel  # Triton adds arguments of its own
    launch[(rows, heads + shape.kv_heads)](
        fused.contiguous(),
        cosines,
        sines,
        fused if norm is None else norm.weights,
        slots,
        query,
        *operands(keys),
        *operands(values),
        rows,
        0.0 if norm is None else norm.eps,
        HEADS=heads,
        HALF=half_of(shape.channels),
        ROTARY=cosines.shape[1],
        NORMED=norm is not None,
        **sizes(keys),
        **constants("KEY", keys),
        **constants("VALUE", values),
        num_warps=1,
    )
    return query
