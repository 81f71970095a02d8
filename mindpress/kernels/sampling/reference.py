"""The definition of `sample`, in plain torch: sorting, no wait for the host."""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mindpress.kernels.sampling.parameters import SamplingRows

COLDEST = 1e-30  # a lower temperature counts as this one; 0 is none
NO_TOKEN = -1

Logits = Float[Tensor, "sequences vocab"]
Weights = Float64[Tensor, "sequences vocab"]


def sample_reference(logits: Logits, parameters: SamplingRows) -> Int64[Tensor, " sequences"]:
    """The first token, in the order of the vocabulary, at which the probabilities exceed `uniform`.

    They are those of the kept tokens: the `top_k` largest (and as large as the last of those); of
    these the fewest most likely that hold `top_p` of their mass (Holtzman et al. 2020, "The Curious
    Case of Neural Text Degeneration", section 3.1; and as likely as the last); of these such as
    have `min_p` times the largest probability (Nguyen et al. 2024, "Min-p Sampling", section 3).
    -1 where a logit is NaN or infinite. In float64; memory: some copies of the logits in it.
    """
    finite = logits.isfinite().all(1)
    wide = torch.where(finite.unsqueeze(1), logits.double(), 0.0)
    weights = _weights(wide, parameters)
    cumulative = weights.where(_kept(wide, weights, parameters), 0.0).cumsum(1)
    bound = parameters.uniform.double().unsqueeze(1) * cumulative[:, -1:]
    drawn = (cumulative > bound).int().argmax(1)
    tokens = torch.where(parameters.temperature > 0, drawn, wide.argmax(1))
    return tokens.where(finite, NO_TOKEN)


def _weights(logits: Float64[Tensor, "sequences vocab"], parameters: SamplingRows) -> Weights:
    """Probabilities relative to the largest."""
    temperature = parameters.temperature.double().clamp(min=COLDEST).unsqueeze(1)
    return ((logits - logits.amax(1, keepdim=True)) / temperature).exp()


def _kept(
    logits: Float64[Tensor, "sequences vocab"], weights: Weights, parameters: SamplingRows
) -> Bool[Tensor, "sequences vocab"]:
    vocab = logits.shape[1]
    falling = logits.sort(1, descending=True).values
    count = parameters.top_k.long().clamp(max=vocab).unsqueeze(1)
    last = falling.gather(1, torch.where(count > 0, count, vocab) - 1)
    kept = logits >= last
    likely = weights >= parameters.min_p.double().clamp(max=1).unsqueeze(1)
    return kept & likely & _nucleus(weights.where(kept, 0.0), parameters)


def _nucleus(weights: Weights, parameters: SamplingRows) -> Bool[Tensor, "sequences vocab"]:
    """The fewest whose mass reaches top_p; the first always is one of them."""
    falling = weights.sort(1, descending=True).values
    mass = falling.cumsum(1)
    top_p = parameters.top_p.double().unsqueeze(1)
    wanted = top_p * mass[:, -1:]
    inside = (mass - falling < wanted).sum(1, keepdim=True).clamp(min=1)
    return (weights >= falling.gather(1, inside - 1)) | (top_p >= 1)
