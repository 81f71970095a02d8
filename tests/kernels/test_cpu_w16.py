import pytest
import torch

from mindpress.errors import InputError
from mindpress.kernels.matmul_w16 import matmul_w16_cpu
from mindpress.kernels.native import call


def made(rows, outputs, inputs, dtype):
    generator = torch.Generator().manual_seed(rows + outputs + inputs)
    x = torch.randn(rows, inputs, generator=generator)
    return x, torch.randn(outputs, inputs, generator=generator).to(dtype)


@pytest.mark.parametrize("instructions", ["portable", "best"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"),
    [(1, 1, 1), (1, 7, 63), (2, 4, 64), (3, 130, 257), (11, 33, 96), (12, 33, 96), (40, 5000, 16)],
)
def test_it_is_the_product_of_the_same_numbers(
    native, monkeypatch, rows, outputs, inputs, dtype, instructions
):
    monkeypatch.setattr(call, "INSTRUCTIONS", instructions)
    x, weight = made(rows, outputs, inputs, dtype)
    expected = x.double() @ weight.double().T
    found = matmul_w16_cpu(x, weight)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_every_half_is_read_as_what_it_is(native, monkeypatch):
    """Subnormal and infinite ones too: a product with one."""
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    kept = halves[~halves.isnan()].unsqueeze(1).contiguous()
    for instructions in ("portable", "best"):
        monkeypatch.setattr(call, "INSTRUCTIONS", instructions)
        wide = torch.zeros(len(kept), 32, dtype=torch.float16)
        wide[:, 3:4] = kept
        one = torch.zeros(1, 32)
        one[0, 3] = 1.0
        finite = kept[:, 0].isfinite()
        found = matmul_w16_cpu(one, wide)[0]
        assert torch.equal(found[finite], kept[finite, 0].float())


def test_threads_change_no_bit(native):
    x, weight = made(3, 999, 512, torch.float16)
    assert torch.equal(matmul_w16_cpu(x, weight, 1), matmul_w16_cpu(x, weight, 3))


def test_shapes_of_batches_are_kept(native):
    x, weight = made(6, 8, 16, torch.float16)
    assert matmul_w16_cpu(x.view(2, 3, 16), weight).shape == (2, 3, 8)
    assert matmul_w16_cpu(x[:0], weight).shape == (0, 8)


@pytest.mark.parametrize("change", ["inputs", "dtype", "strides"])
def test_what_does_not_fit_is_refused(native, change):
    x, weight = made(2, 8, 16, torch.float16)
    wrong = {"inputs": weight[:, :8].contiguous(), "dtype": weight.float(), "strides": weight.T}
    with pytest.raises(InputError):
        matmul_w16_cpu(x if change != "strides" else x[:, :8], wrong[change])
