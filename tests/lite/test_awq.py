import pytest
import torch

from mindpress.formats.quantized import QuantSpec
from mindpress.lite.awq import output_error, search_scales
from mindpress.lite.clipping import diagonal_blocks, search_extent
from mindpress.lite.rounding import round_to_nearest, rounded
from mindpress.lite.smoothing import weight_importance

SPEC = QuantSpec(4, 32)


@pytest.fixture
def layer():
    """Weights and inputs with a few loud channels, as large models have them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 64, generator=generator)
    x[:, [3, 40]] *= 30
    weight = torch.randn(48, 64, generator=generator)
    weight[:, [3, 40]] /= 30
    return weight, x


def search(weight, x):
    importance = weight_importance([weight], SPEC)
    return search_scales([weight], x.abs().mean(0), importance, x.t() @ x, SPEC)


def test_error_by_the_hessian_is_the_error_of_the_outputs(layer):
    weight, x = layer
    change = rounded(weight, SPEC) - weight
    expected = (x @ change.t()).square().sum().item()
    found = output_error([weight], torch.ones(64), x.t() @ x, SPEC)
    assert found == pytest.approx(expected, rel=1e-4)


def test_loud_channels_are_found_and_the_error_falls(layer):
    found = search(*layer)
    assert found.error < 0.5 * found.plain_error
    loud = found.scales[[3, 40]].min()
    assert loud > 2 * found.scales.median()


def test_what_the_search_reports_is_what_rounding_gives(layer):
    weight, x = layer
    found = search(weight, x)
    stands_for = round_to_nearest(weight * found.scales, SPEC).dequantize(torch.float32)
    error = (x @ (stands_for / found.scales - weight).t()).square().sum().item()
    assert found.error == pytest.approx(error, rel=1e-3)


def test_a_weight_on_the_grid_is_left_alone():
    weight = torch.arange(-8, 8).repeat(4, 4).float()
    x = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
    found = search(weight, x)
    assert found.scales.eq(1).all()
    assert found.error < 1e-6


def test_clipping_lowers_the_error_of_every_group(layer):
    weight, x = layer
    weight[:, 7] *= 6  # one large weight a row on a quiet channel spoils the group's grid
    x[:, 7] *= 0.01
    blocks = diagonal_blocks(x.t() @ x, 32)
    extent = search_extent(weight, blocks, SPEC)

    def group_errors(limits):
        change = round_to_nearest(weight, SPEC, limits).dequantize(torch.float32) - weight
        groups = change.view(48, 2, 32)
        return torch.einsum("ogi,gij,ogj->og", groups, blocks, groups)

    plain, clipped = group_errors(None), group_errors(extent)
    assert (clipped <= plain * 1.001).all()
    assert clipped.sum() < 0.9 * plain.sum()


def test_blocks_are_those_along_the_diagonal():
    hessian = torch.arange(16.0).view(4, 4)
    assert diagonal_blocks(hessian, 2).tolist() == [[[0, 1], [4, 5]], [[10, 11], [14, 15]]]
