"""Some of the tokens that linears read, as they are.

What it costs to round an activation depends on the largest one of its token, which no sum over
tokens (X^T X) remembers: so tokens are kept.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

ROWS_KEPT = 1024


class RowSample:
    """The largest |x| of every channel over all tokens, and an even choice of at most 1024 of them.

    `tokens` says how many will be added; the choice is random, but the same for the same `seed`
    and however the tokens are split into batches. Memory: 4 bytes * 1024 * channels.
    """

    def __init__(self, channels: int, tokens: int, device: torch.device, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        # Not every n-th: samples of equal length would give the same positions again and again.
        self._chosen = torch.randperm(tokens, generator=generator)[:ROWS_KEPT].sort().values
        self._rows = torch.empty(len(self._chosen), channels, device=device)
        self._seen, self._filled = 0, 0
        self.absmax: Float32[Tensor, " channels"] = torch.zeros(channels, device=device)

    def add(self, inputs: Float[Tensor, "... channels"]) -> None:
        """Take in a batch of tokens."""
        x = inputs.detach().flatten(0, -2)
        # NaN stays NaN: `finite` must see it.
        self.absmax = torch.maximum(self.absmax, x.abs().amax(0).float())
        here = self._chosen[(self._chosen >= self._seen) & (self._chosen < self._seen + len(x))]
        self._rows[self._filled : self._filled + len(here)] = x[(here - self._seen).to(x.device)]
        self._seen, self._filled = self._seen + len(x), self._filled + len(here)

    @property
    def rows(self) -> Float32[Tensor, "rows channels"]:
        """Those of the chosen tokens that were added, in their order."""
        return self._rows[: self._filled]

    @property
    def finite(self) -> bool:
        """Whether every input was a number."""
        return bool(self.absmax.isfinite().all())
