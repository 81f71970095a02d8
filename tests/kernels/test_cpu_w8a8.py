"""Compiled products of int8 codes against the reference: the same bits."""

import math

import pytest
import torch

from mindpress.errors import ConfigError, InputError
from mindpress.kernels.matmul_w8a8 import cpu
from mindpress.kernels.matmul_w8a8.cpu import matmul_w8a8_cpu, pack_int8_weight
from mindpress.kernels.matmul_w8a8.reference import matmul_w8a8_reference
from mindpress.kernels.matmul_w8a8.weight import Int8Weight, quantize_weight
from mindpress.kernels.quantize_rows.cpu import quantize_rows_cpu
from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.kernels.quantize_rows.rows import Int8Rows

ROWS = pytest.mark.parametrize("rows", [1, 3, 63, 65])


def gaussian(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(math.prod(size)))


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@ROWS
@pytest.mark.parametrize("size", [(1, 1), (16, 64), (40, 130), (129, 1027)], ids=str)
def test_products_equal_the_reference(instructions, rows, size):
    outputs, inputs = size
    weight = quantize_weight(gaussian(outputs, inputs))
    x = quantize_rows_reference(gaussian(rows, inputs))
    expected = matmul_w8a8_reference(x, weight)
    packed = pack_int8_weight(weight)
    for threads in (1, 3):
        same(matmul_w8a8_cpu(x, packed, threads), expected)


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)], ids=str)
def test_the_largest_sums_do_not_saturate(instructions, signs):
    codes = torch.full((5, 2**17), 127 * signs[0], dtype=torch.int8)
    weight = Int8Weight(torch.full((16, 2**17), 127 * signs[1], dtype=torch.int8), torch.ones(16))
    found = matmul_w8a8_cpu(Int8Rows(codes, torch.ones(5)), pack_int8_weight(weight))
    assert torch.equal(found, torch.full((5, 16), float(127 * 127 * 2**17 * signs[0] * signs[1])))


def test_alternating_signs(instructions):
    """Pairs of the largest products, of either sign, beside one another."""
    signs = torch.tensor([1, 1, -1, -1, 1, -1, 1, 1]).repeat(16)
    codes = (127 * signs).to(torch.int8)
    weight = Int8Weight(torch.stack([codes, -codes, codes.roll(1)]), torch.rand(3))
    x = Int8Rows(torch.stack([codes, -codes]), torch.rand(2))
    same(matmul_w8a8_cpu(x, pack_int8_weight(weight)), matmul_w8a8_reference(x, weight))


@ROWS
@pytest.mark.parametrize("inputs", [1, 64, 130])
def test_rows_are_quantized_as_by_the_reference(instructions, rows, inputs):
    x = gaussian(rows, inputs) * torch.logspace(-35, 30, rows).unsqueeze(1)
    x[0] = 0.0
    for kept in (x, x.half(), x.T.contiguous().T):
        found, expected = quantize_rows_cpu(kept, 2), quantize_rows_reference(kept)
        assert torch.equal(found.codes, expected.codes)
        same(found.scales, expected.scales)


def test_ties_are_rounded_to_even(instructions):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 126.5]])
    assert quantize_rows_cpu(x).codes.tolist() == [[127, 0, 2, 2, 0, -2, -126, 126]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_not_hidden(instructions, value):
    x = gaussian(3, 70)
    x[1, 69] = value
    rows, weight = quantize_rows_cpu(x), quantize_weight(gaussian(20, 70))
    same(rows.scales, quantize_rows_reference(x).scales)
    assert not rows.codes[1].any()
    found = matmul_w8a8_cpu(rows, pack_int8_weight(weight))
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_all_of_the_output_is_written_and_nothing_beside_it(instructions, monkeypatch):
    weight, x = quantize_weight(gaussian(19, 33)), quantize_rows_reference(gaussian(7, 33))
    packed, expected = pack_int8_weight(weight), matmul_w8a8_reference(x, weight)
    rooms = []

    def poisoned(self, *size):
        rooms.append(torch.full((math.prod(size) + 128,), float("nan")))
        return rooms[-1][64:-64].view(size)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    found = matmul_w8a8_cpu(x, packed)
    monkeypatch.undo()
    same(found, expected)
    assert len(rooms) == 1
    assert rooms[0][:64].isnan().all()
    assert rooms[0][-64:].isnan().all()


def test_more_rows_than_fit_the_cache(instructions):
    weight, x = quantize_weight(gaussian(24, 4096)), quantize_rows_cpu(gaussian(300, 4096))
    same(matmul_w8a8_cpu(x, pack_int8_weight(weight), 2), matmul_w8a8_reference(x, weight))


def test_packing_in_slices(native, monkeypatch):
    weight = quantize_weight(gaussian(100, 70))
    whole = pack_int8_weight(weight)
    monkeypatch.setattr(cpu, "SLICE", 1)
    sliced = pack_int8_weight(weight)
    assert torch.equal(sliced.codes, whole.codes)
    assert whole.nbytes == 7 * 16 * (72 + 4)


def test_no_rows(native):
    packed = pack_int8_weight(quantize_weight(gaussian(16, 64)))
    x = Int8Rows(torch.zeros(0, 64, dtype=torch.int8), torch.zeros(0))
    assert matmul_w8a8_cpu(x, packed).shape == (0, 16)


def test_what_does_not_fit_is_refused(native):
    packed = pack_int8_weight(quantize_weight(gaussian(16, 64)))
    with pytest.raises(InputError, match="64 inputs, x has 32"):
        matmul_w8a8_cpu(quantize_rows_reference(gaussian(1, 32)), packed)
    lowest = Int8Weight(torch.full((16, 64), -128, dtype=torch.int8), torch.ones(16))
    with pytest.raises(ConfigError, match="-127"):
        pack_int8_weight(lowest)
    for outputs, inputs in ((0, 64), (16, 0), (1, 2**17 + 4)):
        empty = Int8Weight(torch.zeros(outputs, inputs, dtype=torch.int8), torch.ones(outputs))
        with pytest.raises(ConfigError, match="at least one output"):
            pack_int8_weight(empty)
