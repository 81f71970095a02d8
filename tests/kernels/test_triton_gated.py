from math import erf, exp, pi, sqrt, tanh

import pytest
import torch

from mindpress.errors import ConfigError, InputError
from mindpress.kernels.gated import ACTIVATIONS, gated_reference

gpu = pytest.importorskip("mindpress.kernels.gated.gpu", reason="no Triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EACH = pytest.mark.parametrize("activation", list(ACTIVATIONS))
FORMULAS = {
    "silu": lambda x: x / (1 + exp(-x)),
    "gelu": lambda x: x * (1 + erf(x / sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2,
}


def gate_up(rows, channels, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows + channels)
    return (2 * torch.randn(rows, 2 * channels, generator=generator)).to(DEVICE, dtype)


def poisoned(tensor, room=64):
    """The same rows between others that are no numbers."""
    whole = torch.full(
        (tensor.numel() + 2 * room,), float("nan"), dtype=tensor.dtype, device=DEVICE
    )
    return whole[room:-room].view(tensor.shape).copy_(tensor)


@EACH
def test_the_reference_is_the_formula(activation):
    rows = torch.tensor([[-3.0, -0.1, 0.0, 2.0, 5.0, 4.0, 3.0, -2.0]], dtype=torch.float64)
    expected = [FORMULAS[activation](gate) * up for gate, up in rows.view(2, 4).T.tolist()]
    torch.testing.assert_close(gated_reference(rows, activation)[0].tolist(), expected)


@EACH
@pytest.mark.parametrize("size", [(1, 1), (3, 63), (65, 24), (2, 1100)], ids=str)
# The interpreter cuts off what it should round to bfloat16.
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 2e-6), (torch.float16, 5.2e-4), (torch.bfloat16, 8e-3)]
)
def test_gates_equal_the_reference(activation, size, dtype, error):
    x = gate_up(*size, dtype)
    found = gpu.gated(poisoned(x), activation)
    expected = gated_reference(x.double(), activation)
    assert found.dtype == dtype
    # Relative to the larger factors: far below zero an activation loses digits by its nature.
    gate, up = x.double().abs().chunk(2, dim=-1)
    bound = error * torch.maximum(expected.abs(), 1e-2 * gate * up) + 6e-8 * (
        dtype == torch.float16
    )
    assert ((found.double() - expected).abs() <= bound).all()


@EACH
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_gates_far_from_zero_and_no_numbers(activation):
    gate = torch.tensor([-1000.0, -90.0, 90.0, 1000.0, float("nan"), 1.0])
    up = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, float("inf")])
    found = gpu.gated(torch.cat((gate, up)).unsqueeze(0).to(DEVICE), activation)[0].tolist()
    assert found[:4] == pytest.approx([0, 0, 180, 2000], abs=1e-30)
    assert found[4] != found[4]
    assert found[5] == float("inf")


@EACH
def test_all_is_written_and_nothing_beside_it(activation, monkeypatch):
    x = gate_up(3, 21)
    room = torch.full((63 + 128,), float("nan"), device=DEVICE)
    monkeypatch.setattr(torch, "empty", lambda *size, **_: room[64:-64].view(size))
    found = gpu.gated(x, activation)
    monkeypatch.undo()
    torch.testing.assert_close(found, gated_reference(x, activation))
    assert room[:64].isnan().all()
    assert room[-64:].isnan().all()


def test_rows_need_not_be_contiguous_nor_be_there():
    x = gate_up(6, 4).T.contiguous().T
    torch.testing.assert_close(gpu.gated(x, "silu"), gated_reference(x, "silu"))
    assert gpu.gated(x[:0], "silu").shape == (0, 4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="odd"):
        gpu.gated(torch.zeros(1, 3), "silu")


def test_the_activation_must_be_known():
    plain = getattr(gpu.gated, "__wrapped__", gpu.gated)  # without the checks that tests have
    with pytest.raises(ConfigError, match="relu"):
        plain(torch.zeros(1, 2), "relu")
