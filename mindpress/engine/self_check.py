"""GPU kernels against plain torch on the very device, when a model is opened.

What a compiler makes of a kernel for one GPU may be wrong where it was right for another. A moment
of checking at the model's own shapes is cheaper than answers that are silently bad.
"""

import torch
from torch import Tensor

from mindpress.engine.decoder import Decoder
from mindpress.engine.linear import PackedLinear
from mindpress.engine.paged import LayerPages
from mindpress.errors import NumericError
from mindpress.kernels.cache_attention.paged import PagedBatch, Scoring, attend_pages_reference
from mindpress.kernels.matmul_w4a16.gpu_product import TritonProduct
from mindpress.kernels.matmul_w4a16.tiles import untile_weight
from mindpress.kernels.paged import PagedOperations

# One of each regime of the product.
ROWS = (1, 24, 64, 300)
# Sums in float16's inputs and another order; a wrong kernel is off by far more.
TOLERANCE = 2e-2


@torch.inference_mode()
def check_products(decoder: Decoder) -> None:
    """Every shape of 4-bit weight in the model, with few and with many rows.

    NumericError when the kernel is off. Memory: one weight in float32.
    """
    seen = set()
    for linear in decoder.linears:
        product = linear.weight if isinstance(linear, PackedLinear) else None
        if not isinstance(product, TritonProduct) or product.weight.words.shape in seen:
            continue
        seen.add(product.weight.words.shape)
        weight = untile_weight(product.weight).dequantize(torch.float32)
        for rows in ROWS:
            x = torch.randn(rows, weight.shape[1], device=weight.device, dtype=decoder.dtype)
            what = f"the product of {rows} rows with a weight of {tuple(weight.shape)}"
            _compare(product(x), x.float() @ weight.T, what)


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
