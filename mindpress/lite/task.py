"""What is the same for every block of a run, and a block once it is quantized."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
# Bits per weight of the linears of each site of a block.
SiteWidths = Mapping[str, int]
IN_FLOATS = 16


@dataclass(frozen=True, slots=True)
class BlockTask:
    """What is the same for every block: names, widths, spec, and which linears become codes.

    `stored` is the type of what stays in floats. With `compensation`, rounding is compensated;
    without `smooths` weights keep their scales. `specs` are those of sites that have another than
    `spec`; `widths`, of every layer, say which these are.
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
    specs: Mapping[str, QuantSpec] = field(default_factory=dict)
    widths: tuple[SiteWidths, ...] = ()

    def spec_of(self, site: Site) -> QuantSpec:
        """How its linears are quantized."""
        return self.specs.get(site.name, self.spec)

    def of(self, layer: int) -> "BlockTask":
        """The task of one block."""
        if not self.widths:
            return self
        widths = self.widths[layer]
        floats = {
            linear.name
            for site in sites_of(self.block)
            for linear in site.linears
            if widths[site.name] == IN_FLOATS
        }
        specs = {
            name: replace(self.spec, bits=bits)
            for name, bits in widths.items()
            if bits not in (IN_FLOATS, self.spec.bits)
        }
        return replace(self, quantized=self.quantized - floats, specs=specs)

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
