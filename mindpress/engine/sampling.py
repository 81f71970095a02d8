"""Logits -> the next token."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mindpress.engine.config import Sampling
from mindpress.errors import NumericError

Logits = Float[Tensor, " vocab"]


class Sampler:
    """Draws tokens one after the other, on the CPU. The same seed draws the same tokens."""

    def __init__(self, sampling: Sampling, seed: int | None, vocab: int) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._seen = torch.zeros(vocab, dtype=torch.bool)

    def see(self, ids: Iterable[int]) -> None:
        """Tokens of the text so far; the repetition penalty is on them."""
        self._seen[list(ids)] = True

    def __call__(self, logits: Logits) -> int:
        """One token. NumericError when the model computed NaN or infinity."""
        scores = logits.cpu()
        if self._sampling.repetition_penalty != 1:
            scores = penalize(scores, self._seen, self._sampling.repetition_penalty)
        if self._sampling.temperature == 0:
            token = int(scores.argmax())
            _check_finite(scores[token])
        else:
            probabilities, tokens = distribution(scores, self._sampling)
            draw = torch.multinomial(probabilities, 1, generator=self._generator)
            token = int(tokens[draw])
        self._seen[token] = True
        return token


def penalize(logits: Logits, seen: Bool[Tensor, " vocab"], penalty: float) -> Logits:
    """Positive logits of tokens seen are divided by the penalty, negative ones multiplied.

    Source: Keskar et al. 2019, "CTRL", section 4.1, with the sign handled as transformers does.
    """
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def distribution(
    logits: Logits, sampling: Sampling
) -> tuple[Float[Tensor, " kept"], Int64[Tensor, " kept"]]:
    """Probabilities of the tokens that can be drawn, most likely first, and the tokens.

    First temperature, then the `top_k` most likely, then the fewest of those that hold `top_p` of
    their mass (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1).
    """
    vocab = logits.shape[0]
    kept = min(sampling.top_k or vocab, vocab)
    if kept == vocab:
        scores, tokens = logits.sort(descending=True, stable=True)
    else:
        scores, tokens = logits.topk(kept)
    _check_finite(scores[0])
    probabilities = ((scores - scores[0]) / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        nucleus = int((before < sampling.top_p).sum())
        probabilities = probabilities[:nucleus] / probabilities[:nucleus].sum()
    return probabilities, tokens[: len(probabilities)]


def _check_finite(largest: Float[Tensor, ""]) -> None:
    """NaN sorts before every number, so the largest logit tells of all."""
    if not largest.isfinite():
        raise NumericError(
            "the model computed NaN or infinite logits",
            hint="try --dtype float32; if it stays, the weights are damaged",
        )
