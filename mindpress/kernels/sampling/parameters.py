"""How the next token of every sequence is drawn."""

from dataclasses import dataclass

from jaxtyping import Float32, Int32
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """One entry for each sequence, on the device of the logits.

    `temperature` 0 takes the most likely token. `top_k` 0, `top_p` 1 and `min_p` 0 keep all of
    them. `uniform` is in [0, 1), drawn by the caller: the same numbers draw the same tokens.
    """

    temperature: Float32[Tensor, " sequences"]
    top_k: Int32[Tensor, " sequences"]
    top_p: Float32[Tensor, " sequences"]
    min_p: Float32[Tensor, " sequences"]
    uniform: Float32[Tensor, " sequences"]
