"""What the linears of a block are fed: running statistics of their input channels."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor


class InputStatistics:
    """Statistics of one tensor that linears read, over all calibration tokens.

    `hessian` is X^T X, the sum over tokens of the outer products of the inputs: the output error
    of a weight change D is tr(D hessian D^T) (Frantar et al. 2022, "GPTQ", section 3).
    Memory: 4 * channels^2 bytes.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.tokens = 0
        self.absmax: Float32[Tensor, " channels"] = torch.zeros(channels, device=device)
        self.abssum: Float32[Tensor, " channels"] = torch.zeros(channels, device=device)
        self.hessian: Float32[Tensor, "channels channels"] = torch.zeros(
            channels, channels, device=device
        )

    def add(self, inputs: Float[Tensor, "... channels"]) -> None:
        """Take in a batch of inputs."""
        x = inputs.detach().flatten(0, -2).float()
        magnitude = x.abs()
        self.tokens += x.shape[0]
        self.absmax = torch.maximum(self.absmax, magnitude.amax(0))
        self.abssum += magnitude.sum(0)
        self.hessian.addmm_(x.t(), x)

    @property
    def absmean(self) -> Float32[Tensor, " channels"]:
        """Mean of |x| for each channel."""
        return self.abssum / max(self.tokens, 1)

    @property
    def finite(self) -> bool:
        """Whether every input was a number."""
        return bool(self.absmax.isfinite().all() and self.abssum.isfinite().all())
