"""Aiming at the original's output from the inputs of the quantized path."""

import torch

from mindpress.lite.aim import aim, missing
from mindpress.lite.factor import factorize
from mindpress.lite.moments import Moments, scale
from tests.lite.test_compensated import layer


def paths():
    """Weights, inputs of the original path and of the quantized one, and a gap at each token."""
    weight, targets = layer()
    generator = torch.Generator().manual_seed(5)
    inputs = targets + 0.1 * torch.randn(targets.shape, generator=generator)
    gap = inputs @ torch.randn(96, 21, generator=generator) * 0.1
    return weight, inputs, targets, gap


def moments(inputs, targets, gap=None):
    drift = (targets - inputs).t() @ inputs
    return Moments(inputs.t() @ inputs, drift, None if gap is None else gap.t() @ inputs)


def test_the_aim_is_the_ridge_solution():
    weight, inputs, targets, gap = paths()
    found = moments(inputs, targets, gap)
    aimed = weight.clone()
    aim(aimed, missing(weight, found), factorize(found.hessian, 0.01))
    x, wanted = inputs.double(), targets.double() @ weight.double().t() + gap.double()
    damping = 0.01 * found.hessian.diagonal().double().mean() * torch.eye(96)
    rest = x.t() @ (wanted - x @ weight.double().t())
    expected = weight.double() + torch.linalg.solve(x.t() @ x + damping, rest).t()
    torch.testing.assert_close(aimed.double(), expected, rtol=1e-3, atol=1e-4)
    off = (x @ aimed.double().t() - wanted).square().sum()
    assert off < 0.3 * (x @ weight.double().t() - wanted).square().sum()


def test_without_drift_the_weight_is_its_own_aim():
    weight, inputs, _, _ = paths()
    assert missing(weight, Moments(inputs.t() @ inputs)) is None
    same = moments(inputs, inputs)
    aimed = weight.clone()
    aim(aimed, missing(weight, same), factorize(same.hessian, 0.01))
    assert torch.equal(aimed, weight)


def test_scaled_moments_are_those_of_scaled_inputs():
    _, inputs, targets, gap = paths()
    columns = torch.rand(96, generator=torch.Generator().manual_seed(2)) + 0.5
    found = scale(moments(inputs, targets, gap), columns)
    expected = moments(inputs / columns, targets / columns, gap)
    for part in ("hessian", "drift", "gap"):
        torch.testing.assert_close(
            getattr(found, part), getattr(expected, part), rtol=1e-3, atol=1e-2
        )
