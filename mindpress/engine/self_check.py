"""GPU kernels against plain torch on the very device, when a model is opened.

What a compiler makes of a kernel for one GPU may be wrong where it was right for another. A moment
of checking at the model's own shapes is cheaper than answers that are silently bad.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mindpress.engine.decoder import Decoder
from mindpress.engine.linear import FloatLinear, SummedLinear
from mindpress.engine.paged import LayerPages
from mindpress.errors import NumericError
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring, attend_pages_reference
from mindpress.kernels.matmul_w4a16.gpu_product import TritonProduct
from mindpress.kernels.matmul_w4a16.tiles import untile_weight
from mindpress.kernels.matmul_w8a8.gpu_product import TritonInt8Product
from mindpress.kernels.matmul_w8a8.products import ReferenceInt8Product
from mindpress.kernels.paged import PagedOperations

# One of each regime of the product.
ROWS = (1, 24, 64, 300)
# Sums in float16's inputs and another order; a wrong kernel is off by far more.
TOLERANCE = 2e-2


@torch.inference_mode()
def check_products(decoder: Decoder) -> None:
    """Every shape of 4-bit and of int8 weight in the model, with few and with many rows.

    NumericError when the kernel is off. Memory: one weight in float32, of int8 in float64.
    """
    seen = set()
    for linear in decoder.linears:
        own = linear.own if isinstance(linear, SummedLinear) else linear
        product = None if isinstance(own, FloatLinear) else own.weight
        if not isinstance(product, TritonProduct | TritonInt8Product):
            continue
        size = (product.weight.outputs, product.weight.inputs)
        if (type(product), size) in seen:
            continue
        seen.add((type(product), size))
        expected = _expected(product)
        for rows in ROWS:
            x = torch.randn(rows, size[1], device=decoder.device, dtype=decoder.dtype)
            what = f"the product of {rows} rows with a weight of {size}, {product.describe()}"
            _compare(product(x), expected(x), what)


def _expected(product: TritonProduct | TritonInt8Product) -> Callable[[Tensor], Tensor]:
    """What it should compute, by plain torch."""
    if isinstance(product, TritonInt8Product):
        return ReferenceInt8Product(product.weight)
    weight = untile_weight(product.weight).dequantize(torch.float32)
    return lambda x: x.float() @ weight.T


@torch.inference_mode()
def check_cache(decoder: Decoder, pages: LayerPages, operations: PagedOperations) -> None:
    """Write and read two sequences in the first pages, which hold nothing yet.

    NumericError when the kernels are off.
    """
    shape, device = decoder.shape, decoder.device
    lengths = (min(40, pages.keys.shape.tokens), 1)
    if pages.keys.shape.pages < len(lengths):
        return
    tokens = pages.keys.shape.tokens
    slots = torch.cat([torch.arange(n) + tokens * page for page, n in enumerate(lengths)])
    slots = slots.to(device)
    for one in (pages.keys, pages.values):
        size = len(slots), shape.kv_heads, shape.head_dim
        operations.write(one, slots, torch.randn(size, device=device, dtype=decoder.dtype))
    scoring = Scoring(shape.query_scale, None, shape.attention_cap)
    for rows in (lengths, (1, 1)):
        batch = _batch(rows, lengths, device)
        size = sum(rows), shape.heads, shape.head_dim
        query = torch.randn(size, device=device, dtype=decoder.dtype)
        given = query, pages.keys, pages.values, batch, scoring
        what = f"attention of {sum(rows)} rows"
        _compare(operations.attend(*given), attend_pages_reference(*given), what)


def _batch(rows: tuple[int, ...], lengths: tuple[int, ...], device: torch.device) -> PagedBatch:
    def integers(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    starts = integers([0, rows[0], sum(rows)])
    table = integers([0, 1]).unsqueeze(1)
    return PagedBatch(starts, integers(list(lengths)), table, max(rows), max(lengths))


def _compare(found: Tensor, expected: Tensor, what: str) -> None:
    off = float((found.float() - expected.float()).norm() / expected.float().norm())
    if not off < TOLERANCE:
        raise NumericError(
            f"the GPU kernel is wrong on this GPU: {what} is off by {off:.2g}",
            hint="use --kernels reference, and report the output of mindpress check-env",
        )
