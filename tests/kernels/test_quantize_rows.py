import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindpress.kernels.quantize_rows import Int8Rows, quantize_rows_reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NOT_NUMBERS = [float("nan"), float("inf"), float("-inf")]


def in_triton(x):
    gpu = pytest.importorskip("mindpress.kernels.quantize_rows.gpu", reason="no Triton")
    return gpu.quantize_rows(x.to(DEVICE))


def in_short_blocks(x):
    gpu = pytest.importorskip("mindpress.kernels.quantize_rows.gpu", reason="no Triton")
    return gpu.quantize_rows(x.to(DEVICE), longest_block=16)


EACH = pytest.mark.parametrize("quantize", [quantize_rows_reference, in_triton, in_short_blocks])
TRITON = pytest.mark.parametrize("quantize", [in_triton, in_short_blocks])


def gaussian(rows, inputs):
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows + inputs))


@EACH
@pytest.mark.parametrize("size", [(1, 1), (3, 33), (65, 24)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_number_is_within_half_a_step(quantize, size, dtype):
    x = gaussian(*size).to(dtype)
    rows = quantize(x)
    scales = rows.scales.double().cpu()
    torch.testing.assert_close(scales, x.double().abs().amax(1) / 127, rtol=1e-6, atol=0)
    error = (rows.dequantize(torch.float64).cpu() - x.double()).abs()
    assert (error <= 0.5001 * scales.unsqueeze(1)).all()
    assert (rows.codes.abs().amax(1) == 127).all()


@EACH
def test_halves_go_to_the_even_code(quantize):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    assert quantize(x).codes.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@TRITON
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=40),
    st.sampled_from([1.0, 1e-12, 1e-38]),
)
def test_any_row_gives_the_codes_of_the_reference(quantize, numbers, factor):
    x = torch.tensor([numbers]) * factor
    found, expected = quantize(x), quantize_rows_reference(x)
    assert torch.equal(found.codes.cpu(), expected.codes)
    assert torch.equal(found.scales.cpu(), expected.scales)


@EACH
@pytest.mark.parametrize("largest", [1.1, 1.3])
def test_products_are_rounded_before_codes_are(quantize, largest):
    """x * (127 / absmax) is a half only after it is rounded to float32."""
    largest = torch.tensor(largest)
    inverse = torch.tensor(127.0) / largest
    halves = torch.arange(0.5, 126, 1.0)
    near = torch.stack([(halves / inverse).nextafter(torch.tensor(end)) for end in (-9.0, 9.0)])
    x = torch.cat([largest.view(1), halves / inverse, near.flatten()]).unsqueeze(0)
    exact = x.double() * inverse.double()
    ties = (x * inverse) % 1 == 0.5
    assert (ties & (exact % 1 != 0.5)).sum() > 10
    assert torch.equal(quantize(x).codes[0].cpu(), (x * inverse).round()[0].to(torch.int8))


@EACH
def test_zeros_and_nearly_zeros(quantize):
    x = torch.tensor([[0.0, -0.0], [9e-31, -9e-31], [2e-30, -1e-30]])
    rows = quantize(x)
    assert rows.codes.tolist() == [[0, 0], [0, 0], [127, -64]]
    assert rows.scales[:2].tolist() == [0, 0]
    assert rows.scales[2] > 0


@EACH
@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_what_is_no_number_is_not_hidden(quantize, value):
    x = gaussian(3, 20)
    x[1, 18] = value
    rows = quantize(x)
    assert rows.scales.isnan().tolist() == [False, True, False]
    assert not rows.codes[1].any()
    assert torch.equal(rows.codes[::2].cpu(), quantize_rows_reference(x[::2]).codes)


@TRITON
@pytest.mark.parametrize("size", [(1, 16), (3, 33), (65, 17)], ids=str)
def test_all_is_written_and_nothing_beside_it(quantize, size, monkeypatch):
    rooms, count = [], size[0] * size[1]

    def poisoned(*wanted, dtype, device):
        rooms.append(torch.full((count + 128,), 99, dtype=dtype, device=device))
        return rooms[-1][64 : 64 + torch.Size(wanted).numel()].view(wanted)

    room = torch.full((count + 128,), float("inf"))
    x = room[64:-64].view(size).copy_(gaussian(*size))
    expected = quantize_rows_reference(x)
    monkeypatch.setattr(torch, "empty", poisoned)
    found = quantize(x)
    monkeypatch.undo()
    assert torch.equal(found.codes.cpu(), expected.codes)
    assert torch.equal(found.scales.cpu(), expected.scales)
    for written, used in zip(rooms, (count, size[0]), strict=True):
        assert (written[:64] == 99).all()
        assert (written[64 + used :] == 99).all()


@TRITON
def test_rows_need_not_be_contiguous_nor_be_there(quantize):
    x = gaussian(24, 6).T
    assert torch.equal(quantize(x).codes.cpu(), quantize_rows_reference(x).codes)
    none = quantize(x[:0])
    assert isinstance(none, Int8Rows)
    assert none.codes.shape == (0, 24)
