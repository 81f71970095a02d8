"""Codes of 4 or 8 bits in 32-bit words, in the order a format asks for."""

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from mindpress.errors import ConfigError

WORD_BITS = 32

# Position k of a word holds code ORDER[k] of its eight (four for 8 bits).
PLAIN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
AWQ_ORDER_8BIT = (0, 2, 1, 3)


def pack_words(
    codes: UInt8[Tensor, "rows columns"], bits: int, order: tuple[int, ...]
) -> Int32[Tensor, "rows words"]:
    """32 / bits neighbouring columns become one word; the first of `order` has the lowest bits.

    `bits` divides 32 and `order` names every code of a word once.
    """
    lanes, columns = WORD_BITS // bits, codes.shape[1]
    if columns % lanes:
        raise ConfigError(f"{columns} columns do not fill 32-bit words of {lanes} {bits}-bit codes")
    words = torch.zeros(codes.shape[0], columns // lanes, dtype=torch.int32, device=codes.device)
    for place, lane in enumerate(order):
        words |= codes[:, lane::lanes].to(torch.int32) << (bits * place)
    return words


def unpack_words(
    words: Int32[Tensor, "rows words"], bits: int, order: tuple[int, ...]
) -> UInt8[Tensor, "rows columns"]:
    """Inverse of `pack_words` for the same `bits` and `order`."""
    lanes = WORD_BITS // bits
    codes = torch.empty(
        words.shape[0], words.shape[1] * lanes, dtype=torch.uint8, device=words.device
    )
    for place, lane in enumerate(order):
        codes[:, lane::lanes] = (words >> (bits * place) & (2**bits - 1)).to(torch.uint8)
    return codes
