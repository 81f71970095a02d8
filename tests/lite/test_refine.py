import pytest
import torch

from mindpress.formats.quantized import QuantSpec
from mindpress.lite.refine import descend, refine, refit_scales, slope_of
from mindpress.lite.rounding import round_to_nearest
from tests.lite.test_compensated import error, layer

SPEC = QuantSpec(4, 32)


def descended(weight, start, hessian):
    return descend(start, hessian, slope_of(weight, start, hessian))


def refitted(weight, start, hessian):
    return refit_scales(start, hessian, slope_of(weight, start, hessian))


@pytest.fixture
def case():
    weight, x = layer()
    return weight, x, round_to_nearest(weight, SPEC)


def test_a_sweep_is_that_of_the_definition(case):
    """Every code in turn set to each of the 16 values; the best is kept."""
    weight, x, start = case
    weight, start = weight[:3], start.rows(slice(0, 3))
    codes = start.codes.double()
    scales = start.scales.double().repeat_interleave(32, dim=1)
    zeros = start.zeros.double().repeat_interleave(32, dim=1)
    hessian = x.double().t() @ x.double()
    values = torch.arange(16.0, dtype=torch.float64)
    for column in range(96):
        every = codes.unsqueeze(0).repeat(16, 1, 1)
        every[:, :, column] = values.unsqueeze(1)
        change = (every - zeros) * scales - weight.double()
        cost = ((change @ hessian) * change).sum(-1)
        codes[:, column] = values[cost.argmin(0)]
    found = descended(weight, start, x.t() @ x)
    assert (found.codes == codes).float().mean() > 0.98  # float32 may tip a tie
    assert (found.codes != start.codes).float().mean() > 0.1


def test_refitted_scales_are_least_squares_of_the_outputs(case):
    weight, x, start = case
    found = refitted(weight, start, x.t() @ x)
    steps = (start.codes.double() - start.zeros.double().repeat_interleave(32, dim=1)).view(
        21, 3, 32
    )
    for row in range(21):
        basis = torch.einsum("tgi,gi->tg", x.double().view(-1, 3, 32), steps[row])
        best = torch.linalg.lstsq(basis, x.double() @ weight[row].double()).solution
        torch.testing.assert_close(found.scales[row].double(), best, rtol=5e-3, atol=0)


@pytest.mark.parametrize("step", [descended, refitted, lambda *given: refine(*given, 3)])
def test_no_row_gets_worse(case, step):
    weight, x, start = case
    before, after = (error(weight, q, x) for q in (start, step(weight, start, x.t() @ x)))
    assert (after <= before * 1.0001).all()
    assert after.sum() < 0.95 * before.sum()


def test_a_group_of_zeros_and_silent_inputs_keep_their_scales(case):
    weight, x, _ = case
    weight[:, :32] = 0
    x[:, 32:64] = 0
    start = round_to_nearest(weight, SPEC)
    found = refine(weight, start, x.t() @ x, 2)
    assert torch.equal(found.scales[:, :2], start.scales[:, :2])
    assert found.scales.isfinite().all()
