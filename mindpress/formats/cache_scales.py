"""Ranges of keys and values -> zero points and scales of an int8 or int4 cache.

A number x is stored as the code u = clamp(round((x - zero) / scale) + middle) and stands for
x ~ scale * (u - middle) + zero, with zero = (min + max) / 2 and scale = (max - min) / (2^bits - 1),
or, symmetric, zero = 0 and scale = absmax / (2^(bits-1) - 1).
Source: LMDeploy 0.2.6, lite/apis/kv_qparams.py, and its engine (docs/en/kv_int8.md).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from mindpress.formats.cache_spec import CacheSpec

PerChannel = Float32[Tensor, "layers kv_heads channels"]


@dataclass(frozen=True, slots=True)
class Ranges:
    """The smallest and the largest value of every channel, over all calibration tokens.

    Keys are those after the rotary embedding, channels in Hugging Face's order.
    """

    low: PerChannel
    high: PerChannel


@dataclass(frozen=True, slots=True)
class CacheRanges:
    """What calibration found out of the keys and values of a model."""

    keys: Ranges
    values: Ranges


@dataclass(frozen=True, slots=True)
class Grid:
    """Scales and zero points of every layer. `channels` is 1 where all channels share them.

    A scale of 0 stands for a constant: every code means the zero point.
    """

    scale: Float32[Tensor, "layers kv_heads channels"]
    zero: Float32[Tensor, "layers kv_heads channels"]


@dataclass(frozen=True, slots=True)
class CacheScales:
    """The calibrated part of a cache. None: scaled per token and head when it is written."""

    spec: CacheSpec
    keys: Grid | None
    values: Grid | None


def scales_of(ranges: CacheRanges, spec: CacheSpec, rotary_dim: int, ranks: int = 1) -> CacheScales:
    """The scales of a spec. With `tensor`, the heads of each of `ranks` ranks share theirs.

    With `channel`, the first `rotary_dim` channels of the keys have zero in the middle and one
    range for the two that turn together: with its position a key turns on from the one to the
    other and to both signs, also to where no text of the calibration was long enough to take it.
    """
    if spec.granularity == "channel":
        turned = CacheRanges(_turned(ranges.keys, rotary_dim), ranges.values)
        return CacheScales(spec, _grid(turned.keys, spec, ranks), None)
    return CacheScales(spec, _grid(ranges.keys, spec, ranks), _grid(ranges.values, spec, ranks))


def scales_from_files(files: Float32[Tensor, "layers ranks 4"], kv_heads: int) -> CacheScales:
    """The scales that `past_kv_scale` files hold, for every head of their rank."""
    per_head = files.repeat_interleave(kv_heads // files.shape[1], dim=1)
    key_scale, key_zero, value_scale, value_zero = per_head.unsqueeze(2).unbind(-1)
    return CacheScales(
        CacheSpec(8, granularity="tensor"),
        Grid(key_scale, key_zero),
        Grid(value_scale, value_zero),
    )


def file_scales(
    ranges: CacheRanges, spec: CacheSpec, ranks: int
) -> Float32[Tensor, "layers ranks 4"]:
    """k_scale, k_zero, v_scale, v_zero of every layer and rank, as LMDeploy computes them.

    All arithmetic is in float16. Symmetric ones have zeros for zero points, because the engine
    refuses files of two numbers.
    """
    columns = [*_float16_grid(ranges.keys, spec, ranks), *_float16_grid(ranges.values, spec, ranks)]
    return torch.stack(columns, dim=-1).float()


def _turned(keys: Ranges, rotary_dim: int) -> Ranges:
    """Ranges that hold at every position. Pairs are (i, i + rotary_dim / 2)."""
    bound = torch.maximum(keys.low.abs(), keys.high.abs())[..., :rotary_dim]
    bound = torch.maximum(*bound.chunk(2, dim=-1)).repeat(1, 1, 2)
    rest_low, rest_high = keys.low[..., rotary_dim:], keys.high[..., rotary_dim:]
    return Ranges(torch.cat((-bound, rest_low), dim=-1), torch.cat((bound, rest_high), dim=-1))


def _float16_grid(ranges: Ranges, spec: CacheSpec, ranks: int) -> tuple[Tensor, Tensor]:
    low = _per_rank(ranges.low.half(), ranks).amin(-1)
    high = _per_rank(ranges.high.half(), ranks).amax(-1)
    if spec.symmetric:
        return torch.maximum(low.abs(), high.abs()) / (spec.middle - 1), torch.zeros_like(low)
    return (high - low) / spec.largest, (high + low) / 2


def _per_rank(values: Tensor, ranks: int) -> Tensor:
    return values.view(values.shape[0], ranks, -1)


def _grid(ranges: Ranges, spec: CacheSpec, ranks: int) -> Grid | None:
    if spec.granularity == "token":
        return None
    low, high = ranges.low, ranges.high
    if spec.granularity != "channel":
        low, high = low.amin(-1, keepdim=True), high.amax(-1, keepdim=True)
    if spec.granularity == "tensor":
        heads = low.shape[1] // ranks
        low = _per_rank(low, ranks).amin(-1).repeat_interleave(heads, 1).unsqueeze(-1)
        high = _per_rank(high, ranks).amax(-1).repeat_interleave(heads, 1).unsqueeze(-1)
    if spec.symmetric:
        absmax = torch.maximum(low.abs(), high.abs())
        return Grid(absmax / (spec.middle - 1), torch.zeros_like(absmax))
    return Grid((high - low) / spec.largest, (high + low) / 2)
