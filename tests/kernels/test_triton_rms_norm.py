import pytest
import torch
from torch.nn import functional

from mindpress.errors import InputError
from mindpress.kernels.quantize_rows import quantize_rows_reference
from mindpress.kernels.rms_norm import (
    add_rms_norm_int8_reference,
    add_rms_norm_reference,
    rms_norm_int8_reference,
    rms_norm_reference,
)

gpu = pytest.importorskip("mindpress.kernels.rms_norm.gpu", reason="no Triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = pytest.mark.parametrize("size", [(1, 1), (3, 63), (63, 40), (2, 2048), (2, 3000)], ids=str)
# The interpreter cuts off what it should round to bfloat16.
DTYPES = pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-6), (torch.float16, 5.2e-4), (torch.bfloat16, 8e-3)]
)
EPS = 1e-5


def operands(size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(size))
    x = 3 * torch.randn(size, generator=generator)
    residual = torch.randn(size, generator=generator)
    weight = torch.rand(size[1], generator=generator) + 0.5
    return x.to(DEVICE, dtype), residual.to(DEVICE, dtype), weight.to(DEVICE)


def poisoned(tensor, room=64):
    """The same rows between others that are no numbers."""
    whole = torch.full(
        (tensor.numel() + 2 * room,), float("nan"), dtype=tensor.dtype, device=DEVICE
    )
    return whole[room:-room].view(tensor.shape).copy_(tensor)


def relative(found, expected):
    return ((found.double() - expected) / expected.abs().clamp(min=1e-2)).abs().max().item()


def test_the_reference_is_the_one_of_torch():
    x, _, weight = operands((5, 96), torch.float64)
    expected = functional.rms_norm(x, (96,), weight.double(), EPS)
    torch.testing.assert_close(rms_norm_reference(x, weight, EPS), expected, rtol=1e-12, atol=0)


@SIZES
@DTYPES
def test_norms_equal_the_reference(size, dtype, error):
    x, _, weight = operands(size, dtype)
    found = gpu.rms_norm(poisoned(x), poisoned(weight), EPS)
    assert found.dtype == dtype
    assert relative(found, rms_norm_reference(x.double(), weight, EPS)) < error


@SIZES
@DTYPES
def test_norms_of_sums_equal_the_reference(size, dtype, error):
    x, residual, weight = operands(size, dtype)
    found, total = gpu.add_rms_norm(poisoned(x), poisoned(residual), poisoned(weight), EPS)
    expected = add_rms_norm_reference(x, residual, weight, EPS)[1]
    if dtype == torch.bfloat16:
        step = torch.finfo(dtype).eps * (x.double() + residual.double()).abs()
        assert ((total.double() - expected.double()).abs() <= step).all()
    else:
        assert torch.equal(total, expected)
    assert relative(found, rms_norm_reference(total.double(), weight, EPS)) < error


@SIZES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("add", [False, True], ids=["alone", "sum"])
def test_codes_equal_those_of_the_norm(size, dtype, add):
    x, residual, weight = operands(size, dtype)
    if add:
        found, total = gpu.add_rms_norm_int8(poisoned(x), poisoned(residual), weight, EPS)
        expected, sums = add_rms_norm_int8_reference(x, residual, weight, EPS)
        assert torch.equal(total, sums)
    else:
        found = gpu.rms_norm_int8(poisoned(x), poisoned(weight), EPS)
        expected = rms_norm_int8_reference(x, weight, EPS)
    assert relative(found.scales, expected.scales.double()) < 1e-6
    distance = (found.codes.int() - expected.codes.int()).abs()
    assert distance.max() <= 1
    assert distance.float().mean() < 1e-3
    assert (found.codes.abs().amax(1) == 127).all()


def test_codes_are_of_the_norm_before_it_is_rounded():
    x, _, weight = operands((3, 512), torch.float16)
    rounded = quantize_rows_reference(rms_norm_reference(x, weight, EPS))
    found = gpu.rms_norm_int8(x, weight, EPS)
    assert not torch.equal(found.scales, rounded.scales)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_shows_in_its_row_alone(value):
    x, residual, weight = operands((3, 20))
    residual[1, 7] = value
    normed, _ = gpu.add_rms_norm(x, residual, weight, EPS)
    codes, _ = gpu.add_rms_norm_int8(x, residual, weight, EPS)
    assert normed.isfinite().all(1).tolist() == [True, False, True]
    assert codes.scales.isfinite().tolist() == [True, False, True]


def test_zeros_stay_zeros():
    zeros, weight = torch.zeros(2, 24, device=DEVICE), torch.ones(24, device=DEVICE)
    assert not gpu.rms_norm(zeros, weight, EPS).any()
    codes = gpu.rms_norm_int8(zeros, weight, EPS)
    assert not codes.codes.any()
    assert not codes.scales.any()


def test_all_is_written_and_nothing_beside_it(monkeypatch):
    x, residual, weight = operands((3, 21))
    rooms = []

    def room(like, dtype=None):
        fill = 99 if dtype == torch.int8 else float("nan")
        rooms.append(torch.full((like.numel() + 128,), fill, dtype=dtype or like.dtype))
        rooms[-1] = rooms[-1].to(DEVICE)
        return rooms[-1][64:-64].view(like.shape)

    monkeypatch.setattr(torch, "empty_like", room)
    normed, total = gpu.add_rms_norm(x, residual, weight, EPS)
    codes, _ = gpu.add_rms_norm_int8(x, residual, weight, EPS)
    monkeypatch.undo()
    assert normed.isfinite().all()
    assert total.isfinite().all()
    assert (codes.codes.abs() <= 127).all()
    assert relative(codes.dequantize(), normed.double()) < 2  # no 99 is left
    expected = add_rms_norm_int8_reference(x, residual, weight, EPS)[0]
    assert (codes.codes.int() - expected.codes.int()).abs().max() <= 1
    for whole in rooms:
        outside = torch.cat((whole[:64], whole[-64:]))
        assert (outside == 99).all() if whole.dtype == torch.int8 else outside.isnan().all()


def test_no_rows_and_too_many_channels():
    x, _, weight = operands((2, 8))
    assert gpu.rms_norm(x[:0], weight, EPS).shape == (0, 8)
    with pytest.raises(InputError, match="16385 channels"):
        gpu.rms_norm(torch.zeros(1, 16385), torch.zeros(16385), EPS)
    # Without the checks of shapes that tests have.
    plain = getattr(gpu._check, "__wrapped__", gpu._check)
    with pytest.raises(InputError, match="x has 8 channels"):
        plain(x, None, weight[:7])
    with pytest.raises(InputError, match="the residual"):
        plain(x, x[:1], weight)
