"""The order of query and key channels: halves, as Hugging Face stores them, or neighbouring pairs.

Hugging Face rotates channel j with channel j + d/2, TurboMind channel 2j with 2j + 1, where d is
the number of rotated channels of a head. Both compute the same once the rows are re-ordered.
"""

import torch
from jaxtyping import Int64
from torch import Tensor


def pairs_from_halves(heads: int, head_dim: int, rotary_dim: int) -> Int64[Tensor, " rows"]:
    """Row `i` of the result comes from row `index[i]` of the Hugging Face weight.

    In each head row 2j + s comes from row s * d/2 + j; rows past `rotary_dim` stay.
    """
    rows = torch.arange(heads * head_dim).view(heads, head_dim)
    halves = rows[:, :rotary_dim].unflatten(1, (2, rotary_dim // 2))
    pairs = halves.transpose(1, 2).flatten(1)
    return torch.cat((pairs, rows[:, rotary_dim:]), dim=1).flatten()


def halves_from_pairs(heads: int, head_dim: int, rotary_dim: int) -> Int64[Tensor, " rows"]:
    """Inverse of `pairs_from_halves`."""
    return pairs_from_halves(heads, head_dim, rotary_dim).argsort()
