"""What the linears of a block are fed and give: running statistics of channels."""

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from mindpress.formats.finite import is_finite

# The largest float16: what an infinite value becomes when the run is told to carry on.
LARGEST = 65504.0


class InputStatistics:
    """Statistics of one tensor that linears read, over all calibration tokens.

    `hessian` is X^T X, the sum over tokens of the outer products of the inputs: the output error
    of a weight change D is tr(D hessian D^T) (Frantar et al. 2022, "GPTQ", section 3).
    Memory: 4 * channels^2 bytes; with `pairs` false next to none, and there is no `hessian`.
    """

    def __init__(self, channels: int, device: torch.device, *, pairs: bool = True) -> None:
        self.tokens = 0
        self.absmax: Float32[Tensor, " channels"] = torch.zeros(channels, device=device)
        self.abssum: Float32[Tensor, " channels"] = torch.zeros(channels, device=device)
        width = channels if pairs else 0
        self.hessian: Float32[Tensor, "channels channels"] = torch.zeros(
            width, width, device=device
        )

    def add(self, inputs: Float[Tensor, "... channels"]) -> None:
        """Take in a batch of inputs."""
        x = inputs.detach().flatten(0, -2).float()
        magnitude = x.abs()
        self.tokens += x.shape[0]
        self.absmax = torch.maximum(self.absmax, magnitude.amax(0))
        self.abssum += magnitude.sum(0)
        if len(self.hessian):
            self.hessian.addmm_(x.t(), x)

    def forget_pairs(self) -> None:
        """Let the Hessian go."""
        self.hessian = self.hessian.new_empty(0, 0)

    @property
    def absmean(self) -> Float32[Tensor, " channels"]:
        """Mean of |x| for each channel."""
        return self.abssum / max(self.tokens, 1)

    @property
    def finite(self) -> bool:
        """Whether every input was a number."""
        sums = self.absmax, self.abssum, self.hessian.diagonal()
        return all(bool(some.isfinite().all()) for some in sums)


class PairStatistics:
    """Second moments of an input x beside the input t that the original model has in its place.

    `hessian` is the sum over tokens of x x^T and `drift` of (t - x) x^T, [channels, channels].
    `gap` is the sum of g x^T, [gaps, channels], for something else g that is off at the token.
    Memory: 4 bytes an element.
    """

    def __init__(self, channels: int, device: torch.device, gaps: int = 0) -> None:
        square = (channels, channels)
        self.hessian: Float32[Tensor, "channels channels"] = torch.zeros(square, device=device)
        self.drift: Float32[Tensor, "channels channels"] = torch.zeros(square, device=device)
        self.gap: Float32[Tensor, "gaps channels"] = torch.zeros(gaps, channels, device=device)

    def add(
        self,
        inputs: Float[Tensor, "... channels"],
        targets: Float[Tensor, "... channels"],
        gap: Float[Tensor, "... gaps"] | None = None,
    ) -> None:
        """Take in a batch, token by token beside its targets."""
        x = inputs.flatten(0, -2).float()
        self.hessian.addmm_(x.t(), x)
        if targets is not inputs:
            self.drift.addmm_((targets.flatten(0, -2).float() - x).t(), x)
        if gap is not None:
            self.gap.addmm_(gap.flatten(0, -2).float().t(), x)


class Extremes:
    """The smallest and the largest value of every element of `size`, in float32.

    With `clamp`, NaN counts as 0 and an infinite value as the largest float16; `clamped` says
    that there was one. Without, they end up in `low` and `high`, and `finite` is false.
    """

    def __init__(self, size: tuple[int, ...], device: torch.device, *, clamp: bool) -> None:
        self.low: Float32[Tensor, "..."] = torch.full(size, torch.inf, device=device)
        self.high: Float32[Tensor, "..."] = torch.full(size, -torch.inf, device=device)
        self.clamp, self.clamped = clamp, False

    def add(self, values: Float[Tensor, "..."], over: tuple[int, ...]) -> Float32[Tensor, "..."]:
        """Take in values, reduced over the axes `over`; the values as they were counted."""
        x = values.detach().float()
        if self.clamp and not is_finite(x):
            x, self.clamped = without_overflow(x), True
        self.low = torch.minimum(self.low, x.amin(over))
        self.high = torch.maximum(self.high, x.amax(over))
        return x

    def join(self, other: "Extremes") -> None:
        """Take in what another has seen."""
        self.low = torch.minimum(self.low, other.low)
        self.high = torch.maximum(self.high, other.high)
        self.clamped |= other.clamped

    @property
    def absmax(self) -> Float32[Tensor, "..."]:
        """The largest |x|: exact, for it is one of the two extremes."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def finite(self) -> bool:
        """Whether every value that was taken in was a number."""
        return bool(self.low.isfinite().all() and self.high.isfinite().all())

    def tensors(self) -> dict[str, Tensor]:
        """min, max and absmax."""
        return {"min": self.low, "max": self.high, "absmax": self.absmax}


class ChannelStatistics:
    """absmax, absmean, min, max and mean of the channels of one tensor over all tokens.

    A batch is summed in float32 and batches are added up in float64: a float32 sum of 10^5 and
    more tokens would round away what each batch adds. All results are float32.
    """

    def __init__(self, channels: int, device: torch.device, *, clamp: bool = False) -> None:
        self.tokens = 0
        self.extremes = Extremes((channels,), device, clamp=clamp)
        zeros = torch.zeros(channels, dtype=torch.float64, device=device)
        self._sum: Float64[Tensor, " channels"] = zeros
        self._abssum: Float64[Tensor, " channels"] = zeros.clone()

    def add(self, values: Float[Tensor, "... channels"]) -> None:
        """Take in a batch of values."""
        x = self.extremes.add(values.flatten(0, -2), over=(0,))
        self.tokens += x.shape[0]
        self._sum += x.sum(0)
        self._abssum += x.abs().sum(0)

    def join(self, other: "ChannelStatistics") -> None:
        """Take in what another has seen."""
        self.extremes.join(other.extremes)
        self.tokens += other.tokens
        self._sum += other._sum
        self._abssum += other._abssum

    @property
    def mean(self) -> Float32[Tensor, " channels"]:
        """Mean of x for each channel."""
        return (self._sum / max(self.tokens, 1)).float()

    @property
    def absmean(self) -> Float32[Tensor, " channels"]:
        """Mean of |x| for each channel."""
        return (self._abssum / max(self.tokens, 1)).float()

    def tensors(self) -> dict[str, Tensor]:
        """The five statistics by name."""
        return {**self.extremes.tensors(), "mean": self.mean, "absmean": self.absmean}


def without_overflow(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """NaN as 0, infinite values as the largest float16 of their sign; the rest as it is."""
    return values.nan_to_num(nan=0.0, posinf=LARGEST, neginf=-LARGEST)
