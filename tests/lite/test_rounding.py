import pytest
import torch

from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.rounding import Extent, round_to_nearest, rounded

WEIGHTS = {
    "normal": torch.randn(16, 256, generator=torch.Generator().manual_seed(0)),
    "all positive": torch.rand(16, 256, generator=torch.Generator().manual_seed(0)) + 10,
    "zeros": torch.zeros(16, 256),
    "one outlier": torch.eye(16, 256) * 1000,
}


@pytest.mark.parametrize("symmetric", [False, True], ids=["full", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", WEIGHTS)
def test_no_element_is_off_by_more_than_half_a_step(name, bits, symmetric):
    weight, spec = WEIGHTS[name], QuantSpec(bits, 64, symmetric)
    quantized = round_to_nearest(weight, spec)
    # the scale is rounded to float16, which shifts the ends of the grid by 2^-11 of the range
    slack = 1 + 2**-10 * spec.max_code
    half_step = quantized.scales.float().repeat_interleave(64, dim=1) / 2
    error = (quantized.dequantize(torch.float32) - weight).abs()
    assert (error <= half_step * slack).all()


@pytest.mark.parametrize("symmetric", [False, True], ids=["full", "symmetric"])
def test_rounded_is_what_the_codes_stand_for(symmetric):
    spec = QuantSpec(4, 32, symmetric)
    weight = WEIGHTS["normal"]
    codes = round_to_nearest(weight, spec)
    assert torch.equal(rounded(weight, spec), codes.dequantize(torch.float32))


def test_a_weight_already_on_the_grid_comes_back_exactly():
    weight = torch.arange(-8, 8).repeat(4, 4).float() * 0.25
    quantized = round_to_nearest(weight, QuantSpec(bits=4, group_size=16))
    assert torch.equal(quantized.dequantize(torch.float32), weight)


def test_symmetric_zero_is_the_middle_code():
    """Loaders of symmetric files assume it."""
    quantized = round_to_nearest(WEIGHTS["normal"], QuantSpec(4, 64, symmetric=True))
    assert quantized.zeros.eq(8).all()


def test_values_outside_the_extent_are_clipped():
    weight = torch.linspace(-2, 2, 64).view(1, 64)
    extent = Extent(torch.full((1, 1), -1.0), torch.full((1, 1), 1.0))
    back = round_to_nearest(weight, QuantSpec(4, 64), extent).dequantize(torch.float32)
    assert back.min() >= -1.1
    assert back.max() <= 1.1


def test_a_whole_row_is_one_group():
    quantized = round_to_nearest(torch.randn(4, 200), QuantSpec(4, -1))
    assert quantized.scales.shape == (4, 1)


def test_a_width_the_group_size_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="not a multiple of group size 128"):
        round_to_nearest(torch.zeros(8, 200), QuantSpec())
