import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindpress.formats.bit_stream import pack_stream, stream_words, unpack_stream

# What the packing loop of AutoGPTQ 0.7 made of the codes (5 i + 3) mod 2^bits, 8 bits: 70 i + 3.
WRITTEN = {
    2: [0x93939393],
    3: [0x43C67543, 0x7543C675, 0xC67543C6],
    4: [0x61C72D83, 0xE94FA50B],
    8: [0xD58F4903, 0xEDA7611B],
}


def signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


def random_codes(rows: int, columns: int, bits: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * columns * bits)
    return torch.randint(2**bits, (rows, columns), dtype=torch.uint8, generator=generator)


def as_defined(codes: list[int], bits: int) -> list[int]:
    """One integer of all codes, cut into words."""
    whole = sum(code << (bits * place) for place, code in enumerate(codes))
    count = -(-len(codes) * bits // 32)
    return [signed(whole >> (32 * word) & 0xFFFFFFFF) for word in range(count)]


@given(st.integers(1, 4), st.integers(1, 130), st.integers(2, 8))
def test_words_are_as_defined_and_unpack_undoes_pack(rows, columns, bits):
    codes = random_codes(rows, columns, bits)
    words = pack_stream(codes, bits)
    assert words.shape == (rows, stream_words(columns, bits))
    assert words.tolist() == [as_defined(row, bits) for row in codes.tolist()]
    assert torch.equal(unpack_stream(words, bits, columns), codes)


@pytest.mark.parametrize("bits", WRITTEN)
def test_words_that_another_program_wrote(bits):
    count = len(WRITTEN[bits]) * 32 // bits
    step = 70 if bits == 8 else 5
    codes = torch.tensor([[(step * i + 3) % 2**bits for i in range(count)]], dtype=torch.uint8)
    words = torch.tensor([[signed(word) for word in WRITTEN[bits]]], dtype=torch.int32)
    assert torch.equal(unpack_stream(words, bits, count), codes)
    assert torch.equal(pack_stream(codes, bits), words)


def test_words_from_turned_memory():
    codes = random_codes(65, 33, 3)
    words = pack_stream(codes, 3)
    turned = words.t().contiguous().t()
    assert torch.equal(unpack_stream(turned, 3, 33), codes)
    assert torch.equal(pack_stream(codes.t().contiguous().t(), 3), words)
