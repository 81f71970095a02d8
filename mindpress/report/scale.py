"""From values to positions: round axis ends and the ticks between them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mindpress.report.numbers import Number

ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from 0 to `top` over `length` pixels; `ticks` are round values on it."""

    top: float
    length: float
    ticks: tuple[float, ...]

    def at(self, value: Number) -> float:
        """Pixels from the axis' beginning, proportional to the value."""
        return self.length * value / self.top


def scale(values: Iterable[Number], length: float, steps: int = 4) -> Scale:
    """A scale from 0 that holds every finite value, with about `steps` ticks."""
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    if largest <= 0:
        return Scale(1.0, length, (0.0, 1.0))
    raw = largest / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in ROUND if factor * power >= raw * (1 - 1e-9))
    count = math.ceil(largest / step - 1e-9)
    return Scale(count * step, length, tuple(index * step for index in range(count + 1)))
