"""Quantize the keys or values of new tokens and store them, in plain torch.

Per token and head: scale = (max - min) / (2^bits - 1), low = min; symmetric:
scale = absmax / (2^(bits-1) - 1). Source: LMDeploy 0.4, online KV quantization (docs/en/
quantization/kv_quant.md). The codes fit the scale and low as they are rounded to float16.
"""

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from mindpress.formats.cache_codes import CacheTensor, pack
from mindpress.formats.cache_spec import CacheSpec

LARGEST = 65504.0  # of float16
Tokens = Float[Tensor, "batch kv_heads length channels"]


def write_tokens(into: CacheTensor, begin: int, x: Tokens) -> None:
    """Store `x` at the positions from `begin` on. Peak memory: a few float32 copies of `x`."""
    x = x.float()
    place = into.part(begin, begin + x.shape[2])
    if not place.fixed:
        scale, low = token_scales(x, into.spec)
        place.scale.copy_(scale)
        if place.low is not None:
            place.low.copy_(low)
    low = None if place.low is None else place.low.float()
    codes = codes_of(x, place.scale.float(), low, into.spec)
    place.codes.copy_(pack(codes, into.spec.bits))


def token_scales(x: Float32[Tensor, "..."], spec: CacheSpec) -> tuple[Tensor, Tensor]:
    """Scale and low of every token and head, [..., 1]; float16 rounds them when they are stored."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    if spec.symmetric:
        return _in_float16(torch.maximum(low.abs(), high.abs()) / (spec.middle - 1)), low
    low = _in_float16(low)
    return _in_float16((high - low) / spec.largest), low


def codes_of(
    x: Float32[Tensor, "*rows channels"], scale: Tensor, low: Tensor | None, spec: CacheSpec
) -> UInt8[Tensor, "*rows channels"]:
    """round((x - low) / scale), one code in a byte; `low` None is -middle * scale.

    A constant has the scale 0: it is divided by 1 instead, which gives the code 0 or so.
    """
    low = -spec.middle * scale if low is None else low
    steps = (x - low) / torch.where(scale > 0, scale, 1.0)
    return steps.round().clamp(0, spec.largest).to(torch.uint8)


def _in_float16(x: Float32[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Finite numbers stay finite; NaN and infinities stay what they are, to be found later."""
    return torch.where(x.isfinite(), x.clamp(-LARGEST, LARGEST), x)
