"""What a model predicts from the hidden states behind its last block."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mindpress.sources.folder import ModelFolder

# Rows of the head that are computed with at a time; it is stored in a narrower type.
ROWS_AT_ONCE = 8192

Rows = Float[Tensor, "rows hidden"]


class Predictions:
    """Final norm and head of a model. Peak memory: the head as it is stored, and the result."""

    def __init__(self, source: ModelFolder, device: torch.device, dtype: torch.dtype) -> None:
        self._eps, self._cap = source.shape.norm_eps, source.shape.logit_cap
        self._device, self._dtype = device, dtype
        self._norm = source.final_norm().to(device, torch.float32) + source.architecture.norm_offset
        self._head = source.head()

    def log_probabilities(self, hidden: Rows) -> Float[Tensor, "rows vocab"]:
        """Of the next token, in float32."""
        x = hidden.to(self._device, torch.float32)
        x = functional.rms_norm(x, self._norm.shape, self._norm, self._eps).to(self._dtype)
        parts = [
            functional.linear(x, part.to(self._device, self._dtype)).float()
            for part in self._head.split(ROWS_AT_ONCE)
        ]
        logits = torch.cat(parts, -1)
        if self._cap is not None:
            logits = logits.div_(self._cap).tanh_().mul_(self._cap)
        return logits.log_softmax(-1)
