"""Attention of many sequences over a cache in pages, in plain torch: what the kernels must do."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindpress.formats.cache_pages import CachePages
from mindpress.kernels.cache_attention.scores import Scores

Rows = Float[Tensor, "rows heads channels"]


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """Which rows of a step belong to which sequence, and in which pages its tokens lie.

    Sequence i has the rows starts[i] to starts[i + 1] and, those included, lengths[i] positions in
    the pages table[i, 0], table[i, 1] ...; further entries of the table mean nothing. A sequence
    without rows is padding. `most_rows` and `longest` bound rows and length of any sequence: the
    only numbers the host knows.
    """

    starts: Int[Tensor, " sequences_and_1"]
    lengths: Int[Tensor, " sequences"]
    table: Int[Tensor, "sequences most_pages"]
    most_rows: int
    longest: int


@dataclass(frozen=True, slots=True)
class Scoring:
    """scale * q k^T, through cap * tanh(. / cap) where there is a cap; causal, and of each token's
    past only the last `window` positions, its own included."""

    scale: float
    window: int | None = None
    cap: float | None = None


def attend_pages_reference(
    query: Rows, keys: CachePages, values: CachePages, batch: PagedBatch, scoring: Scoring
) -> Rows:
    """softmax(scores) v of every row and head over the positions of its sequence up to its own.

    Each kv head serves its group of query heads. Computed in float32, or in float64 for such
    queries. Memory: keys and values of one sequence, and its scores.
    """
    mixed = torch.zeros_like(query)
    starts, lengths = batch.starts.tolist(), batch.lengths.tolist()
    for index, length in enumerate(lengths):
        rows = slice(starts[index], starts[index + 1])
        if rows.stop > rows.start:
            pages = batch.table[index]
            k, v = positions_of(keys, pages, length), positions_of(values, pages, length)
            mixed[rows] = _attend(query[rows], k, v, scoring)
    return mixed


def positions_of(
    stored: CachePages, pages: Int[Tensor, " pages"], length: int
) -> Float[Tensor, "kv_heads length channels"]:
    """What the first `length` positions of a sequence stand for; float32 where they are codes."""
    used = pages[: -(-length // stored.shape.tokens)].long()
    numbers = stored.data[used]
    if stored.spec is not None:
        if stored.spec.bits == 4:
            numbers = torch.cat((numbers & 15, numbers >> 4), dim=-1)
        numbers = numbers.float()
    if stored.shape.by_channel:
        numbers = numbers.transpose(2, 3)
    flat = numbers.transpose(0, 1).flatten(1, 2)[:, :length]
    if stored.spec is None or stored.scale is None:
        return flat
    scale, low = (_per_position(part, stored, used, length) for part in (stored.scale, stored.low))
    if scale is None:
        return flat
    return flat * scale + (-stored.spec.middle * scale if low is None else low)


def _per_position(
    part: Tensor | None, stored: CachePages, used: Tensor, length: int
) -> Float[Tensor, "kv_heads length_or_1 channels_or_1"] | None:
    if part is None:
        return None
    if stored.fixed:
        return part.unsqueeze(1)
    return part[used].float().transpose(0, 1).flatten(1)[:, :length].unsqueeze(-1)


def _attend(query: Rows, keys: Tensor, values: Tensor, scoring: Scoring) -> Rows:
    rows, heads, _ = query.shape
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    group = heads // keys.shape[0]
    k = keys.to(dtype).repeat_interleave(group, 0)
    v = values.to(dtype).repeat_interleave(group, 0)
    weights = (query.to(dtype).transpose(0, 1) @ k.transpose(1, 2)) * scoring.scale
    if scoring.cap is not None:
        weights = torch.tanh(weights / scoring.cap) * scoring.cap
    past = keys.shape[1] - rows
    seen = Scores(scoring.scale, past, scoring.window, scoring.cap).visible(
        rows, 0, keys.shape[1], query.device
    )
    if seen is not None:
        weights = weights.masked_fill(~seen, float("-inf"))
    return (weights.softmax(-1) @ v).transpose(0, 1).to(query.dtype)
