"""Turn queries and keys by their positions and store keys and values, in plain torch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_write.paged import write_pages_reference

Fused = Float[Tensor, "rows heads_and_2_kv_heads_channels"]
PerRow = Int[Tensor, " rows"]
Table = Float[Tensor, "rows rotary"]


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMS norm of every head of queries and keys before they are turned.

    `weights` are those of the query heads, then those of the kv heads.
    """

    weights: Float[Tensor, "heads_and_kv_heads channels"]
    eps: float


def rotate_and_write_reference(
    fused: Fused,
    angles: tuple[Table, Table],
    pages: tuple[CachePages, CachePages],
    slots: PerRow,
    norm: HeadNorm | None = None,
) -> Float[Tensor, "rows heads channels"]:
    """The queries, turned; keys, turned, and values go to `pages`.

    A row of `fused` has its query heads, then the kv heads of its keys, then those of its values.
    `angles` are cosines and sines of the rows' positions. Computed in float32 (float64 for such
    rows) and rounded once, to the type of `fused`, before keys are stored. Rows with negative
    slots are turned but not stored. Source: Su et al. 2021, "RoFormer", section 3.2.2; Zhang and
    Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    shape = pages[0].shape
    heads = fused.unflatten(1, (-1, shape.channels))
    turned, values = heads[:, : -shape.kv_heads], heads[:, -shape.kv_heads :]
    wide = turned.double() if fused.dtype == torch.float64 else turned.float()
    if norm is not None:
        wide = _normed(wide, norm)
    turned = _rotated(wide, *(table.to(wide.dtype).unsqueeze(1) for table in angles))
    query, keys = turned.to(fused.dtype).split(
        (turned.shape[1] - shape.kv_heads, shape.kv_heads), 1
    )
    write_pages_reference(pages[0], slots, keys)
    write_pages_reference(pages[1], slots, values)
    return query.contiguous()


def _normed(x: Tensor, norm: HeadNorm) -> Tensor:
    """x / root mean square of each head, times the weights."""
    return x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weights.to(x.dtype)


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (i, i + rotary / 2) of the first `rotary` channels by their angles."""
    rotary = cosines.shape[-1]
    turned, rest = x[..., :rotary], x[..., rotary:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosines + torch.cat((-second, first), dim=-1) * sines
    return torch.cat((turned, rest), dim=-1)
