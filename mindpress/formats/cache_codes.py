"""Keys or values of a layer as codes: the layout that the cache kernels write and read."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from mindpress.formats.cache_spec import CacheSpec

Codes = UInt8[Tensor, "batch kv_heads positions bytes"]
PerToken = Float[Tensor, "batch kv_heads positions 1"]
Fixed = Float[Tensor, "kv_heads 1 channels"]


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """A number is scale * u + low, u being its code of `spec.bits` bits.

    int8 has a byte a channel. int4 has channel c in the low half of byte c and channel
    c + channels/2 in the high half. `fixed` scales were calibrated (float32, `channels` may be 1);
    others belong to a token and head (float16). `low` None: a symmetric range, low is
    -middle * scale.
    """

    spec: CacheSpec
    codes: Codes
    scale: Tensor
    low: Tensor | None
    fixed: bool

    @property
    def bytes_per_position(self) -> int:
        """Bytes that one position takes in all heads, scales included, of one sequence."""
        tensors = [self.codes]
        if not self.fixed:
            tensors += [self.scale] if self.low is None else [self.scale, self.low]
        return sum(part.shape[1] * part.shape[3] * part.itemsize for part in tensors)

    def part(self, begin: int, end: int) -> "CacheTensor":
        """A view of some positions."""
        scale, low = self.scale, self.low
        if not self.fixed:
            scale = scale[:, :, begin:end]
            low = None if low is None else low[:, :, begin:end]
        return CacheTensor(self.spec, self.codes[:, :, begin:end], scale, low, self.fixed)

    def with_room(self, positions: int, used: int) -> "CacheTensor":
        """A copy that has room for `positions`, the first `used` of them as here."""
        scale, low = self.scale, self.low
        if not self.fixed:
            scale = _grown(scale, positions, used)
            low = None if low is None else _grown(low, positions, used)
        return CacheTensor(self.spec, _grown(self.codes, positions, used), scale, low, self.fixed)

    def halves(self) -> tuple[Float32[Tensor, "..."], ...]:
        """The codes as numbers, in one tensor for int8, in two of half the channels for int4."""
        if self.spec.bits == 8:
            return (self.codes.float(),)
        return (self.codes & 15).float(), (self.codes >> 4).float()

    def dequantized(self) -> Float32[Tensor, "batch kv_heads positions channels"]:
        """What all codes stand for."""
        scale = self.scale.float()
        low = -self.spec.middle * scale if self.low is None else self.low.float()
        return torch.cat(self.halves(), dim=-1) * scale + low


def bytes_per_head(channels: int, bits: int) -> int:
    """Bytes of the codes of a token in one head."""
    return channels * bits // 8


def pack(codes: UInt8[Tensor, "*rest channels"], bits: int) -> UInt8[Tensor, "*rest bytes"]:
    """Codes as they are stored."""
    if bits == 8:
        return codes
    low, high = codes.chunk(2, dim=-1)
    return low | (high << 4)


def _grown(old: Tensor, positions: int, used: int) -> Tensor:
    new = old.new_empty(*old.shape[:2], positions, old.shape[3])
    new[:, :, :used] = old[:, :, :used]
    return new
