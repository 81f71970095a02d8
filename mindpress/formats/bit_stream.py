"""Codes of any width one after the other in 32-bit words, lowest bits first, also across words."""

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor
from torch.nn.functional import pad

WORD_BITS = 32


def stream_words(columns: int, bits: int) -> int:
    """Words that hold `columns` codes of `bits`."""
    return -(-columns * bits // WORD_BITS)


def pack_stream(codes: UInt8[Tensor, "rows columns"], bits: int) -> Int32[Tensor, "rows words"]:
    """Code i of a row begins at bit i * bits of its words; the last word is filled with zeros.

    Source: qlinear `pack` of AutoGPTQ 0.7 and GPTQModel 5, `pack_to_int32` of compressed-tensors.
    """
    rows, columns = codes.shape
    filled = pad(codes, (0, -columns % WORD_BITS)).to(torch.int32)
    # 32 codes are `bits` whole words.
    words = torch.zeros(
        rows, filled.shape[1] // WORD_BITS * bits, dtype=torch.int32, device=codes.device
    )
    for lane in range(WORD_BITS):
        word, begin = divmod(lane * bits, WORD_BITS)
        lanes = filled[:, lane::WORD_BITS]
        words[:, word::bits] |= lanes << begin
        if begin + bits > WORD_BITS:
            words[:, word + 1 :: bits] |= lanes >> (WORD_BITS - begin)
    return words[:, : stream_words(columns, bits)].contiguous()


def unpack_stream(
    words: Int32[Tensor, "rows words"], bits: int, columns: int
) -> UInt8[Tensor, "rows columns"]:
    """Inverse of `pack_stream`. Peak memory: the codes, and an eighth of them in words."""
    filled = pad(words, (0, -words.shape[1] % bits))
    lanes = filled.shape[1] // bits * WORD_BITS
    codes = torch.empty(words.shape[0], lanes, dtype=torch.uint8, device=words.device)
    for lane in range(WORD_BITS):
        word, begin = divmod(lane * bits, WORD_BITS)
        here = min(bits, WORD_BITS - begin)
        code = filled[:, word::bits] >> begin & (1 << here) - 1
        if here < bits:
            code |= (filled[:, word + 1 :: bits] & (1 << bits - here) - 1) << here
        codes[:, lane::WORD_BITS] = code.to(torch.uint8)
    return codes[:, :columns].contiguous()
