"""How scores are made of queries and keys, and which keys a query sees."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """scale * q k^T, through cap * tanh(. / cap) where there is a cap.

    The queries are those of the tokens after `past` others; each sees its own token and those
    before it, at most `window` of them.
    """

    scale: float
    past: int
    window: int | None = None
    cap: float | None = None

    @property
    def first(self) -> int:
        """The first position that any query sees."""
        return 0 if self.window is None else max(0, self.past + 1 - self.window)

    def visible(
        self, length: int, begin: int, end: int, device: torch.device
    ) -> Bool[Tensor, "length positions"] | None:
        """Which of the positions `begin` to `end` each of `length` queries sees; None: all."""
        last = self.past + length - 1
        if end - 1 <= self.past and (self.window is None or begin > last - self.window):
            return None
        queries = torch.arange(self.past, self.past + length, device=device).unsqueeze(1)
        keys = torch.arange(begin, end, device=device).unsqueeze(0)
        seen = keys <= queries
        return seen if self.window is None else seen & (keys > queries - self.window)
