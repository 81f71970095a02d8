"""Bytes of a model's linears, by the bits per weight they are given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mindpress.formats.layout import Layout
from mindpress.lite.sites import sites_of
from mindpress.lite.task import IN_FLOATS, SiteWidths
from mindpress.models.description import Block, Linear


@dataclass(frozen=True, slots=True)
class PlannedLinear:
    """A linear of every block: its widths, and why it stays in floats (None: it becomes codes)."""

    linear: Linear
    outputs: int
    inputs: int
    obstacle: str | None

    @property
    def weights(self) -> int:
        return self.outputs * self.inputs


@dataclass(frozen=True, slots=True)
class LinearSizes:
    """What the linears of a block take in a folder of `layout`, floats being of type `stored`."""

    block: Block
    linears: tuple[PlannedLinear, ...]
    layout: Layout
    stored: torch.dtype

    @property
    def weights(self) -> int:
        """Of a block."""
        return sum(planned.weights for planned in self.linears)

    def sites(self, bits: int) -> dict[str, int]:
        """Bytes of the linears of each site with so many bits."""
        return {
            site.name: sum(self._linear(p, bits) for p in self.linears if p.linear in site.linears)
            for site in sites_of(self.block)
        }

    def possible(self, widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Which of `widths` the linears of each site can have together."""
        found = {}
        for site in sites_of(self.block):
            coded = [p for p in self.linears if p.linear in site.linears and not p.obstacle]
            found[site.name] = tuple(
                bits for bits in widths if bits == IN_FLOATS or (coded and self._hold(coded, bits))
            )
        return found

    def uniform(self, bits: int) -> int:
        """Bytes of a block whose linears all have so many bits."""
        return sum(self.sites(bits).values())

    def mixed(self, widths: Sequence[SiteWidths], left: Sequence[int] = ()) -> int:
        """Bytes of all blocks; those `left` are in floats."""
        sizes = {
            bits: self.sites(bits) for layer in widths for bits in {*layer.values(), IN_FLOATS}
        }
        return sum(
            sizes[IN_FLOATS if index in left else bits][site]
            for index, layer in enumerate(widths)
            for site, bits in layer.items()
        )

    def _hold(self, linears: list[PlannedLinear], bits: int) -> bool:
        layout = self._layout(bits)
        return all(layout.holds(planned.outputs, planned.inputs) for planned in linears)

    def _layout(self, bits: int) -> Layout:
        return self.layout.with_spec(replace(self.layout.spec, bits=bits))

    def _linear(self, planned: PlannedLinear, bits: int) -> int:
        if planned.obstacle or bits == IN_FLOATS:
            return planned.weights * self.stored.itemsize
        parts = self._layout(bits).parts(planned.outputs, planned.inputs)
        return sum(parts[name].nbytes for name in self.layout.written)
