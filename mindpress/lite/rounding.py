"""Round-to-nearest: the baseline every other algorithm must beat, and their last step."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantizedWeight, QuantSpec

SMALLEST_SCALE = torch.finfo(torch.float16).tiny

Weight = Float[Tensor, "outputs inputs"]
Groups = Float32[Tensor, "outputs groups size"]
PerGroup = Float32[Tensor, "outputs groups"]


class Extent(NamedTuple):
    """The range of values that the grid of each group covers; what lies outside is clipped."""

    low: PerGroup
    high: PerGroup


@torch.no_grad()
def round_to_nearest(
    weight: Weight, spec: QuantSpec, extent: Extent | None = None
) -> QuantizedWeight:
    """Quantize each group of inputs on its own evenly spaced grid.

    Scales are rounded to float16 before the codes are chosen, as every file holds them. Without
    `extent` the grid covers all values and the error of an element is at most half its scale.
    """
    groups = grouped(weight, spec)
    scales, zeros = grid(extent or full_extent(groups), spec)
    return QuantizedWeight(
        codes=encode(groups, scales, zeros, spec).flatten(-2).to(torch.uint8),
        scales=scales.to(torch.float16),
        zeros=zeros.to(torch.uint8),
        spec=spec,
    )


@torch.no_grad()
def rounded(
    weight: Weight, spec: QuantSpec, extent: Extent | None = None
) -> Float32[Tensor, "outputs inputs"]:
    """The weight that the codes of `round_to_nearest` stand for, without storing them."""
    groups = grouped(weight, spec)
    scales, zeros = grid(extent or full_extent(groups), spec)
    return decode(encode(groups, scales, zeros, spec), scales, zeros).flatten(-2)


def grouped(weight: Weight, spec: QuantSpec) -> Groups:
    """The inputs of each row in groups; ConfigError when they do not fill whole ones."""
    inputs = weight.shape[1]
    if not spec.fits(inputs):
        raise ConfigError(
            f"{inputs} input channels are not a multiple of group size {spec.group_size}",
            hint="choose a group size that divides the input width of every layer",
        )
    return weight.float().unflatten(-1, (-1, spec.group_of(inputs)))


def full_extent(groups: Groups) -> Extent:
    """From the smallest to the largest value, always with 0.

    Without 0 on the grid a group whose values share a sign would need a zero outside the codes.
    """
    return Extent(groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0))


def grid(extent: Extent, spec: QuantSpec) -> tuple[PerGroup, PerGroup]:
    """Scale (float16-representable) and zero of each group.

    scale = (high - low) / (2^bits - 1), zero = round(-low / scale); a symmetric grid mirrors
    around 0, whose code is the middle one: scale = max(|low|, |high|) / (2^(bits-1) - 1).
    """
    if spec.symmetric:
        steps = spec.max_code // 2
        scales = _half(torch.maximum(-extent.low, extent.high) / steps)
        return scales, torch.full_like(scales, steps + 1)
    scales = _half((extent.high - extent.low) / spec.max_code)
    return scales, (-extent.low / scales).round().clamp(0, spec.max_code)


def encode(groups: Groups, scales: PerGroup, zeros: PerGroup, spec: QuantSpec) -> Groups:
    """Codes 0 ... max_code, as floats: round(w / scale) + zero, half to even, clamped."""
    codes = (groups / scales.unsqueeze(-1)).round_().add_(zeros.unsqueeze(-1))
    return codes.clamp_(0, spec.max_code)


def decode(codes: Groups, scales: PerGroup, zeros: PerGroup) -> Groups:
    """(code - zero) * scale."""
    return (codes - zeros.unsqueeze(-1)).mul_(scales.unsqueeze(-1))


def _half(scales: PerGroup) -> PerGroup:
    return scales.clamp(min=SMALLEST_SCALE).to(torch.float16).float()
