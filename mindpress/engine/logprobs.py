"""How likely a model found a token, and what it found likelier."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities before temperature and everything after it.

    `chosen` is that of the token that was drawn, `top` those of the most likely tokens.
    """

    chosen: float
    top: dict[int, float]


def logprobs_of(logits: Float[Tensor, " vocab"], token: int, count: int) -> TokenLogprobs:
    """`count` of the most likely tokens, the likeliest first; fewer where there are fewer."""
    logprobs = logits.float().log_softmax(-1)
    values, tokens = logprobs.topk(min(count, len(logprobs)))
    top = dict(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(float(logprobs[token]), top)
