"""Empty pages for kernels in Triton, where what was never written shows.

Codes are 0xA5, scales and floats NaN.
"""

import torch

from mindpress.formats.cache_pages import (
    CachePages,
    PageShape,
    fixed_pages,
    float_pages,
    online_pages,
)
from mindpress.formats.cache_spec import CacheSpec

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAGE, KV_HEADS = 16, 2
KINDS = ["16 float", "8 token", "8 channel", "8 head symmetric"]
KINDS += ["4 token", "4 token symmetric", "4 head", "4 channel"]
NAN = float("nan")


def random(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def poisoned(
    kind: str, x: torch.Tensor, pages: int, by_channel: bool, page: int = PAGE
) -> CachePages:
    """Empty pages for numbers like `x`, [tokens, kv heads, channels]; `kind`: "8 token"."""
    bits, granularity, *symmetric = kind.split()
    shape = PageShape(pages, x.shape[1], page, x.shape[2], by_channel)
    if bits == "16":
        made = float_pages(shape, x.dtype, DEVICE)
        made.data.fill_(NAN)
        return made
    if granularity == "channel" and by_channel:
        granularity = "token"
    spec = CacheSpec(int(bits), symmetric=bool(symmetric), granularity=granularity)
    if granularity == "token":
        made = online_pages(shape, spec, DEVICE)
        made.scale.fill_(NAN)
        if made.low is not None:
            made.low.fill_(NAN)
    else:
        low, high = grid(x.float(), granularity)
        made = fixed_pages(shape, spec, (high - low) / spec.largest, (high + low) / 2)
    made.data.fill_(0xA5)
    return made


def grid(x, granularity):
    if granularity == "channel":
        return x.amin(0), x.amax(0)
    return x.amin((0, 2)).unsqueeze(-1), x.amax((0, 2)).unsqueeze(-1)
