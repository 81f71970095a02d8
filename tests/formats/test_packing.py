import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindpress.errors import ConfigError
from mindpress.formats.packing import (
    AWQ_ORDER,
    AWQ_ORDER_8BIT,
    PLAIN_ORDER,
    pack_words,
    unpack_words,
)

LAYOUTS = {
    "plain": (4, PLAIN_ORDER),
    "awq": (4, AWQ_ORDER),
    "awq 8 bits": (8, AWQ_ORDER_8BIT),
    "plain 8 bits": (8, PLAIN_ORDER[:4]),
}
layouts = st.sampled_from(list(LAYOUTS.values()))


def word_by_word(codes: list[int], bits: int, order: tuple[int, ...]) -> list[int]:
    """The definition, one Python integer at a time."""
    lanes, words = 32 // bits, []
    for begin in range(0, len(codes), lanes):
        word = sum(codes[begin + lane] << (bits * place) for place, lane in enumerate(order))
        words.append(word - 2**32 if word >= 2**31 else word)
    return words


@st.composite
def tables(draw):
    bits, order = draw(layouts)
    rows, words = draw(st.integers(0, 5)), draw(st.integers(0, 9))
    shape = (rows, words * 32 // bits)
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, shape, dtype=torch.uint8, generator=generator), bits, order


@given(tables())
def test_unpack_undoes_pack(table):
    codes, bits, order = table
    assert torch.equal(unpack_words(pack_words(codes, bits, order), bits, order), codes)


@given(tables())
def test_words_are_as_defined(table):
    codes, bits, order = table
    expected = [word_by_word(row, bits, order) for row in codes.tolist()]
    assert pack_words(codes, bits, order).tolist() == expected


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9), layouts)
def test_pack_undoes_unpack(words, layout):
    """Every word is the pack of some codes, the sign bit included."""
    table = torch.tensor([words], dtype=torch.int32)
    assert torch.equal(pack_words(unpack_words(table, *layout), *layout), table)


@pytest.mark.parametrize(
    ("order", "word"), [(AWQ_ORDER, 0x75316420), (PLAIN_ORDER, 0x76543210)], ids=["awq", "plain"]
)
def test_a_word_as_other_tools_pack_it(order, word):
    """AutoAWQ 0.2.9, awq/modules/linear/gemm.py, for the codes 0 to 7."""
    codes = torch.arange(8, dtype=torch.uint8).unsqueeze(0)
    assert pack_words(codes, 4, order).item() == word


def test_codes_from_turned_memory():
    codes = torch.randint(0, 16, (16, 5), dtype=torch.uint8)
    assert torch.equal(pack_words(codes.t(), 4, AWQ_ORDER), pack_words(codes.t().contiguous(), 4, AWQ_ORDER))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(("bits", "columns"), [(4, 12), (8, 6)])
def test_columns_that_do_not_fill_a_word_are_refused(bits, columns):
    with pytest.raises(ConfigError, match=f"{columns} columns"):
        pack_words(torch.zeros(2, columns, dtype=torch.uint8), bits, PLAIN_ORDER[: 32 // bits])
