"""Compensated rounding against the definition, one column at a time in float64."""

import pytest
import torch

from mindpress.errors import ConfigError, NumericError
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.compensated import Compensation, compensated
from mindpress.lite.factor import factorize
from mindpress.lite.rounding import round_to_nearest

SPEC = QuantSpec(4, 32)
DAMPING = 0.01


def layer(outputs=21, inputs=96, tokens=400, seed=0):
    """Weights, and inputs that go with one another, some of them louder."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) + 2 * torch.eye(inputs)
    x = torch.randn(tokens, inputs, generator=generator) @ mix
    x *= torch.rand(inputs, generator=generator) + 0.05
    return torch.randn(outputs, inputs, generator=generator), x


def error(weight, quantized, x):
    change = quantized.dequantize(torch.float64) - weight.double()
    return (x.double() @ change.t()).square().sum(0)


def by_definition(weight, hessian, spec, *, ordered):
    """GPTQ's algorithm 1 as optimal brain surgery: after each column its row and column leave the
    inverse, one elimination at a time; nothing is factored or blocked."""
    plain = round_to_nearest(weight, spec)
    size = plain.group_size
    scales, zeros = plain.scales.double(), plain.zeros.double()
    damping = DAMPING * hessian.diagonal().double().mean()
    inverse = torch.linalg.inv(hessian.double() + damping * torch.eye(len(hessian)))
    left, codes = weight.double().clone(), torch.zeros(weight.shape)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    for column in (order if ordered else torch.arange(len(hessian))).tolist():
        scale, zero = scales[:, column // size], zeros[:, column // size]
        code = (torch.round(left[:, column] / scale) + zero).clamp(0, spec.max_code)
        off = left[:, column] - (code - zero) * scale
        codes[:, column] = code.float()
        left -= torch.outer(off, inverse[column]) / inverse[column, column]
        inverse = (
            inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        )
        inverse[column, column] = 1.0  # done with: it is never divided by again
    return codes


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    "spec", [SPEC, QuantSpec(3, -1), QuantSpec(4, 48, symmetric=True)], ids=str
)
def test_codes_are_those_of_the_definition(spec, ordered):
    weight, x = layer()
    hessian = x.t() @ x
    found = compensated(weight, hessian, spec, Compensation(DAMPING, by_importance=ordered))
    expected = by_definition(weight, hessian, spec, ordered=ordered)
    plain = round_to_nearest(weight, spec)
    assert (found.codes == expected).float().mean() > 0.995  # float32 may tip a tie
    assert (found.codes != plain.codes).float().mean() > 0.1
    assert torch.equal(found.scales, plain.scales)
    assert torch.equal(found.zeros, plain.zeros)


@pytest.mark.parametrize("options", [
    Compensation(), Compensation(clip=True), Compensation(sweeps=2), Compensation(1e-4, False),
    Compensation(clip=True, sweeps=2),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("tokens", [7, 400])
def test_no_row_is_worse_than_rounded_to_nearest(options, tokens):
    weight, x = layer(tokens=tokens, outputs=65)
    plain = error(weight, round_to_nearest(weight, SPEC), x)
    found = error(weight, compensated(weight, x.t() @ x, SPEC, options), x)
    assert (found <= plain * 1.0001).all()
    assert found.sum() < 0.7 * plain.sum()


def test_inputs_that_do_not_go_together_are_rounded_to_nearest():
    weight, _ = layer()
    hessian = torch.diag(torch.rand(96, generator=torch.Generator().manual_seed(1)) + 0.1)
    found, plain = compensated(weight, hessian, SPEC), round_to_nearest(weight, SPEC)
    assert torch.equal(found.codes, plain.codes)
    assert torch.equal(found.scales, plain.scales)


def test_the_order_of_columns_changes_no_grid():
    weight, x = layer()
    hessian = x.t() @ x
    ordered = compensated(weight, hessian, SPEC, Compensation(by_importance=True))
    plain = compensated(weight, hessian, SPEC, Compensation(by_importance=False))
    assert torch.equal(ordered.scales, plain.scales)
    assert torch.equal(ordered.zeros, plain.zeros)
    assert not torch.equal(ordered.codes, plain.codes)


def test_the_arguments_stay_as_they_are():
    weight, x = layer()
    hessian = x.t() @ x
    before = weight.clone(), hessian.clone()
    compensated(weight, hessian, SPEC, Compensation(clip=True, sweeps=1))
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


def test_the_factor_is_that_of_the_damped_inverse():
    _, x = layer()
    hessian = x.t() @ x
    factor = factorize(hessian, DAMPING)
    whole = hessian.double()
    whole.diagonal().add_(DAMPING * whole.diagonal().mean())
    inverse = torch.linalg.inv(whole)[factor.order][:, factor.order].float()
    torch.testing.assert_close(
        factor.upper.t() @ factor.upper, inverse, rtol=1e-3, atol=float(inverse.abs().max()) * 1e-5
    )
    assert torch.equal(factor.upper, factor.upper.triu())
    assert hessian.diagonal()[factor.order].diff().le(0).all()


@pytest.mark.parametrize("damping", [0.0, DAMPING])
def test_fewer_tokens_than_inputs_and_silent_inputs_are_no_failure(damping):
    weight, x = layer(tokens=5)
    x[:, [3, 50]] = 0
    hessian = x.t() @ x
    factor = factorize(hessian, damping)
    assert (factor.damping > damping) == (damping == 0)
    found = compensated(weight, hessian, SPEC, Compensation(damping))
    plain = round_to_nearest(weight, SPEC)
    assert torch.equal(found.codes[:, [3, 50]], plain.codes[:, [3, 50]])
    assert error(weight, found, x).sum() < 0.5 * error(weight, plain, x).sum()


def test_inputs_that_were_all_silent_are_rounded_to_nearest():
    weight, _ = layer()
    found = compensated(weight, torch.zeros(96, 96), SPEC)
    assert torch.equal(found.codes, round_to_nearest(weight, SPEC).codes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_hessian_that_is_no_number_is_refused(bad):
    weight, x = layer()
    hessian = x.t() @ x
    hessian[4, 4] = bad
    with pytest.raises(NumericError, match="NaN or infinite"):
        compensated(weight, hessian, SPEC)
    hessian = x.t() @ x
    hessian[4, 7] = hessian[7, 4] = bad
    with pytest.raises(NumericError, match="NaN or infinite"):
        compensated(weight, hessian, SPEC)


def test_a_width_the_group_size_does_not_divide_is_refused():
    weight, x = layer(inputs=80)
    with pytest.raises(ConfigError, match="not a multiple"):
        compensated(weight, x.t() @ x, SPEC)


def test_the_size_of_the_inputs_changes_no_code():
    """Also where some are silent: these must not set the measure of the damping."""
    weight, x = layer()
    x[:, [3, 50]] = 0
    hessian = x.t() @ x
    found = compensated(weight, hessian, SPEC, Compensation(sweeps=1))
    small = compensated(weight, hessian * 2.0**-30, SPEC, Compensation(sweeps=1))
    assert (found.codes == small.codes).float().mean() > 0.999
