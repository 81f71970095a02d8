"""Mixed precision: which sites of a model are worth more bits than the others."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindpress.lite.task import SiteWidths

# Layer and site.
Place = tuple[int, str]
ByWidth = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Bits per weight of the sites of every layer, and the loss of each with the fewest bits.

    Loss is the KL divergence of next-token distributions from the original's, in nats, when only
    the linears of that site are rounded.
    """

    widths: tuple[SiteWidths, ...]
    losses: tuple[Mapping[str, float], ...]

    @classmethod
    def of(cls, chosen: Mapping[Place, int], losses: Mapping[Place, ByWidth]) -> "Mixture":
        """From values by layer and site."""
        layers = range(1 + max(layer for layer, _ in chosen))
        worst = {place: by_width[min(by_width)] for place, by_width in losses.items()}
        return cls(
            tuple({site: bits for (at, site), bits in chosen.items() if at == i} for i in layers),
            tuple({site: loss for (at, site), loss in worst.items() if at == i} for i in layers),
        )

    @property
    def told(self) -> str:
        """How many sites have which width, for people."""
        widths = Counter(bits for layer in self.widths for bits in layer.values())
        return ", ".join(f"{count} with {bits}" for bits, count in sorted(widths.items()))

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> "Mixture":
        """From JSON."""
        return cls(tuple(saved["widths"]), tuple(saved["losses"]))


def assign(
    sizes: Mapping[Place, Mapping[int, int]], losses: Mapping[Place, ByWidth], budget: int
) -> dict[Place, int]:
    """Bits for every place, so that the bytes in `sizes` add up to `budget` at most.

    From the fewest bits on, the place is widened that loses most for every byte it takes more, as
    long as there is one that fits. Losses of different places are taken to add up.
    """
    chosen = {place: min(by_width) for place, by_width in sizes.items()}
    free = budget - sum(sizes[place][bits] for place, bits in chosen.items())
    while True:
        best, gain = None, 0.0
        for place, bits in chosen.items():
            for wider in sizes[place]:
                cost = sizes[place][wider] - sizes[place][bits]
                if not 0 < cost <= free:
                    continue
                per_byte = (losses[place][bits] - losses[place][wider]) / cost
                if per_byte > gain:
                    best, gain = (place, wider, cost), per_byte
        if best is None:
            return chosen
        chosen[best[0]] = best[1]
        free -= best[2]
