import pytest
import torch

from mindpress.errors import InputError
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.formats.scattered import dequantize_scattered, is_scattered


def test_each_input_has_the_scale_and_zero_of_its_group():
    generator = torch.Generator().manual_seed(0)
    index = (torch.arange(96, dtype=torch.int32) // 32)[torch.randperm(96, generator=generator)]
    codes = torch.randint(16, (7, 96), dtype=torch.uint8, generator=generator)
    zeros = torch.randint(16, (7, 3), dtype=torch.uint8, generator=generator)
    scales = torch.rand(7, 3, generator=generator).half()
    found = dequantize_scattered(QuantizedWeight(codes, scales, zeros, QuantSpec(4, 32)), index)
    for column, group in enumerate(index.tolist()):
        expected = (codes[:, column].float() - zeros[:, group].float()) * scales[:, group].float()
        assert torch.equal(found[:, column], expected)


def test_neighbours_are_not_scattered():
    index = torch.arange(96, dtype=torch.int32) // 32
    assert not is_scattered(index, 3, "g_idx")
    assert is_scattered(index.flip(0), 3, "g_idx")


@pytest.mark.parametrize("damage", [-1, 3, 1])
def test_an_index_of_other_groups_is_refused(damage):
    index = torch.arange(96, dtype=torch.int32) // 32
    index[0] = damage
    with pytest.raises(InputError, match="32 inputs into each of 3 groups"):
        is_scattered(index, 3, "g_idx")
