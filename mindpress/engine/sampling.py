"""Logits -> the next token."""

from collections.abc import Iterable
from random import Random

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mindpress.engine.config import Sampling
from mindpress.errors import NumericError

Logits = Float[Tensor, " vocab"]


class Sampler:
    """Draws tokens one after the other, on the CPU. The same seed draws the same tokens."""

    def __init__(self, sampling: Sampling, seed: int | None, vocab: int) -> None:
        self.sampling = sampling
        self._random = Random(seed)
        self.seen = torch.zeros(vocab, dtype=torch.bool)

    @property
    def greedy(self) -> bool:
        """Whether the largest logit decides, as it comes out of the model."""
        return self.sampling.temperature == 0 and not self.sampling.penalizes

    def uniform(self) -> float:
        """The next number of [0, 1) that decides what is drawn; greedy ones need none."""
        return self._random.random() if self.sampling.temperature else 0.0

    def see(self, ids: Iterable[int]) -> None:
        """Tokens of the text so far; the repetition penalty is on them."""
        self.seen[list(ids)] = True

    def __call__(self, logits: Logits) -> int:
        """One token. NumericError when the model computed NaN or infinity."""
        scores = logits.cpu()
        if self.sampling.penalizes:
            scores = penalize(scores, self.seen, self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            token = int(scores.argmax())
            check_finite_logit(scores[token])
        else:
            token = draw(*distribution(scores, self.sampling), self.uniform())
        self.seen[token] = True
        return token


def draw(
    probabilities: Float[Tensor, " kept"], tokens: Int64[Tensor, " kept"], uniform: float
) -> int:
    """The first token, in the order of the vocabulary, up to which the probabilities sum to more
    than `uniform` of [0, 1): the same on every device, whatever order it finds tokens in."""
    tokens, order = tokens.sort()
    reached = probabilities[order].double().cumsum(0)
    place = int((reached <= uniform * reached[-1]).sum())
    return int(tokens[min(place, len(tokens) - 1)])


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
    their mass (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1),
    then those of at least `min_p` of the most likely one's (Nguyen et al. 2024, "Min-p sampling").
    """
    vocab = logits.shape[0]
    kept = min(sampling.top_k or vocab, vocab)
    if kept == vocab:
        scores, tokens = logits.sort(descending=True, stable=True)
    else:
        scores, tokens = logits.topk(kept)
    check_finite_logit(scores[0])
    probabilities = ((scores - scores[0]) / sampling.temperature).softmax(-1)
    likely = len(probabilities)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        likely = int((before < sampling.top_p).sum())
    if sampling.min_p > 0:
        likely = min(likely, int((probabilities >= sampling.min_p * probabilities[0]).sum()))
    if likely < len(probabilities):
        probabilities = probabilities[:likely] / probabilities[:likely].sum()
    return probabilities, tokens[: len(probabilities)]


def check_finite_logit(largest: Float[Tensor, ""]) -> None:
    """NumericError when it is no number. NaN sorts before all of them, so the largest tells."""
    if not largest.isfinite():
        raise NumericError(
            "the model computed NaN or infinite logits",
            hint="try --dtype float32; if it stays, the weights are damaged",
        )
