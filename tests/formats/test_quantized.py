import pytest
import torch

from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantizedWeight, QuantSpec, stack_rows


@pytest.fixture
def weight() -> QuantizedWeight:
    return QuantizedWeight(
        codes=torch.tensor([[0, 15, 7, 8], [1, 2, 3, 4]], dtype=torch.uint8),
        scales=torch.tensor([[0.5, 2.0], [1.0, 0.25]], dtype=torch.float16),
        zeros=torch.tensor([[8, 0], [0, 4]], dtype=torch.uint8),
        spec=QuantSpec(bits=4, group_size=2),
    )


def test_dequantize_is_code_minus_zero_times_scale(weight):
    expected = torch.tensor([[-4.0, 3.5, 14.0, 16.0], [1.0, 2.0, -0.25, 0.0]])
    assert torch.equal(weight.dequantize(torch.float32), expected)
    assert weight.dequantize().dtype == torch.float16
    assert weight.group_size == 2


def test_rows_can_be_taken_and_stacked(weight):
    turned = weight.rows(torch.tensor([1, 0]))
    assert torch.equal(turned.dequantize(), weight.dequantize().flip(0))
    stacked = stack_rows([weight.rows(slice(0, 1)), weight.rows(slice(1, 2))])
    assert torch.equal(stacked.dequantize(), weight.dequantize())


def test_a_group_of_minus_one_is_the_row():
    spec = QuantSpec(group_size=-1)
    assert spec.group_of(96) == 96
    assert spec.fits(97)
    assert not QuantSpec(group_size=32).fits(97)
    assert QuantSpec(bits=3).max_code == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"bits": 1}, "1-bit"), ({"bits": 9}, "9-bit"), ({"group_size": 0}, "got 0"),
     ({"group_size": -2}, "got -2")],
)  # fmt: skip
def test_impossible_specs_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        QuantSpec(**changes)
    assert caught.value.hint
