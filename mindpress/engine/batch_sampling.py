"""Tokens for many sequences at once, drawn where the logits are: the host waits only for them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.engine.sampling import Sampler, penalize
from mindpress.errors import NumericError
from mindpress.kernels.dispatch import Kernels
from mindpress.kernels.sampling.parameters import SamplingRows
from mindpress.kernels.sampling.reference import NO_TOKEN, sample_reference

Logits = Float[Tensor, "sequences vocab"]


def draw_all(logits: Logits, samplers: Sequence[Sampler], kernels: Kernels) -> list[int]:
    """One token for each row, those that each sampler alone would draw.

    NumericError when the model computed NaN or infinity.
    """
    logits = _penalized(logits, samplers)
    rows = _rows(samplers, logits.device)
    if kernels.name == "triton":
        from mindpress.kernels.sampling.gpu import sample

        tokens = sample(logits, rows).tolist()
    else:
        tokens = sample_reference(logits, rows).tolist()
    if NO_TOKEN in tokens:
        raise NumericError(
            "the model computed NaN or infinite logits",
            hint="try --dtype float32; if it stays, the weights are damaged",
        )
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.see([token])
    return tokens


def _penalized(logits: Logits, samplers: Sequence[Sampler]) -> Logits:
    changed = [row for row, sampler in enumerate(samplers) if sampler.sampling.penalizes]
    if changed:
        logits = logits.clone()
    for row in changed:
        seen = samplers[row].seen.to(logits.device, non_blocking=True)
        logits[row] = penalize(logits[row], seen, samplers[row].sampling.repetition_penalty)
    return logits


def _rows(samplers: Sequence[Sampler], device: torch.device) -> SamplingRows:
    chosen = [sampler.sampling for sampler in samplers]

    def there(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

    return SamplingRows(
        temperature=there([one.temperature for one in chosen], torch.float32),
        top_k=there([one.top_k for one in chosen], torch.int32),
        top_p=there([one.top_p for one in chosen], torch.float32),
        min_p=there([one.min_p for one in chosen], torch.float32),
        uniform=there([sampler.uniform() for sampler in samplers], torch.float32),
    )
