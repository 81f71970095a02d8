"""Ranges of keys and values as calibration finds them, made up or those of LMDeploy's run."""

from pathlib import Path

import torch

from mindpress.formats.cache_scales import CacheRanges, Ranges

GOLDEN_KV = Path(__file__).parent / "data" / "golden" / "kv"


def random_ranges(layers: int = 2, kv_heads: int = 2, channels: int = 128) -> CacheRanges:
    """Every channel with limits of its own, none of them symmetric."""
    generator = torch.Generator().manual_seed(3)

    def one() -> Ranges:
        widths = torch.arange(1, kv_heads + 1).view(-1, 1)  # no head like another
        high = (torch.rand(layers, kv_heads, channels, generator=generator) * 5 + 0.1) * widths
        return Ranges(-high * 0.7, high)

    return CacheRanges(one(), one())


def golden_ranges() -> CacheRanges:
    """What `lmdeploy lite calibrate` 0.2.6 found: two layers, two heads of 128 channels."""
    parts = []
    for name in ("key_stats", "value_stats"):
        found = torch.load(GOLDEN_KV / f"{name}.pth", weights_only=True)
        low, high = (torch.stack(list(found[key].values())).float() for key in ("min", "max"))
        parts.append(Ranges(low, high))
    return CacheRanges(*parts)
