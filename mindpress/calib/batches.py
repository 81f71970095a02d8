"""How many samples are computed at once: fewer once memory ran out."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from mindpress.errors import ResourceError

Result = TypeVar("Result")


def saved_sizes(saved: list[int], layers: int) -> list[int]:
    """The sizes of so many finished layers, as a journal has them; ValueError for anything else."""
    if len(saved) != layers or not all(isinstance(size, int) and size > 0 for size in saved):
        raise ValueError(f"batch sizes {saved} of {layers} layers")
    return list(saved)


class Batches:
    """`size` samples at once, half as many from the moment when the GPU has no memory for them.

    `told` hears of each halving, in a sentence.
    """

    def __init__(
        self, size: int, told: Callable[[str], None], *, unit: str = "sample", hint: str
    ) -> None:
        self.size, self._told, self._unit, self._hint = size, told, unit, hint

    def run(
        self, samples: int, work: Callable[[slice], Result], begin: int = 0
    ) -> Iterator[tuple[slice, Result]]:
        """Which samples, and what `work` makes of them, from `begin` on.

        `work` must leave nothing behind when memory runs out in it: it is then called again for
        fewer samples. What counts them belongs into the loop over the results. ResourceError when
        there is no memory for a single one.
        """
        start = begin
        while start < samples:
            some = slice(start, min(start + self.size, samples))
            found = self._tried(some, work)
            if found is not None:
                yield some, found[0]
                start = some.stop

    def _tried(self, some: slice, work: Callable[[slice], Result]) -> tuple[Result] | None:
        try:
            return (work(some),)
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0] if str(error) else "out of memory"
        # Here the error is gone, and with it what its frames held.
        self._halve(some.stop - some.start, reason)
        return None

    def _halve(self, tried: int, reason: str) -> None:
        if tried == 1:
            raise ResourceError(
                f"memory ran out with one {self._unit} at a time: {reason}", hint=self._hint
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size = (tried + 1) // 2
        self._told(
            f"memory ran out with {tried} {self._unit}s at once: from now on {self.size} are"
            " computed at a time"
        )
