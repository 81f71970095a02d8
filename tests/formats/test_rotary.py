import pytest
import torch

from mindpress.formats.rotary import halves_from_pairs, pairs_from_halves

SIZES = [(1, 128, 128), (4, 64, 64), (3, 8, 8), (2, 128, 64), (5, 6, 2)]


@pytest.mark.parametrize(("heads", "head_dim", "rotary"), SIZES)
def test_rotated_channels_become_neighbours_and_the_rest_stays(heads, head_dim, rotary):
    index = pairs_from_halves(heads, head_dim, rotary).tolist()
    for head in range(heads):
        start = head * head_dim
        for j in range(rotary // 2):
            for s in (0, 1):
                assert index[start + 2 * j + s] == start + s * (rotary // 2) + j
        rest = list(range(start + rotary, start + head_dim))
        assert index[start + rotary : start + head_dim] == rest


@pytest.mark.parametrize(("heads", "head_dim", "rotary"), SIZES)
def test_the_inverse_gives_the_rows_back(heads, head_dim, rotary):
    rows = torch.randn(heads * head_dim, 3)
    there = rows[pairs_from_halves(heads, head_dim, rotary)]
    assert torch.equal(there[halves_from_pairs(heads, head_dim, rotary)], rows)
