"""What is the same for every block of a run, and a block once it is quantized."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mindpress.calib.statistics import InputStatistics
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.lite.compensated import Compensation
from mindpress.lite.sites import Site, sites_of
from mindpress.models.description import Block
from mindpress.models.shape import ModelShape

Weights = Mapping[str, Tensor]
Statistics = Mapping[str, InputStatistics]
# Channels of each site; their number differs from site to site.
SiteScales = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class BlockTask:
    """What is the same for every block: names, widths, spec, and which linears become codes.

    `stored` is the type of what stays in floats. With `compensation`, rounding is compensated;
    without `smooths` weights keep their scales.
    """

    block: Block
    shape: ModelShape
    spec: QuantSpec
    quantized: frozenset[str]
    norm_offset: float
    stored: torch.dtype
    device: torch.device
    compensation: Compensation | None = None
    smooths: bool = True

    def sites(self) -> list[Site]:
        """The sites with a linear to quantize."""
        return [
            site
            for site in sites_of(self.block)
            if any(linear.name in self.quantized for linear in site.linears)
        ]


@dataclass(frozen=True, slots=True)
class BlockCodes:
    """A quantized block: codes by linear, every other tensor in the stored type, and notes."""

    method: str
    codes: dict[str, QuantizedWeight]
    floats: dict[str, Tensor]
    notes: tuple[str, ...] = ()
