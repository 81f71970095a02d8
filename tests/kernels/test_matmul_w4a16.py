"""Products with packed weights of 4 bits by the compiled kernels, against the reference."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from w4_weights import weight_of

from mindpress.errors import InputError, ResourceError
from mindpress.formats.quantized import WHOLE_ROW
from mindpress.kernels.matmul_w4a16 import cpu, matmul, pack_weight
from mindpress.kernels.matmul_w4a16.cpu import CpuOptions
from mindpress.kernels.matmul_w4a16.reference import int8_rows, matmul_reference
from mindpress.kernels.native import build, library

MODES = pytest.mark.parametrize("exact", [True, False], ids=["w4a32", "w4a8"])
ROWS = pytest.mark.parametrize("rows", [1, 3, 63, 65])
SETS = pytest.mark.parametrize("instructions", library.INSTRUCTION_SETS[1:])


def gaussian(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(prod(size)))


def expected(x, weight, exact):
    """In float64, from what x is to the kernel."""
    x = x if exact else int8_rows(x, pack_weight(weight).group_size)
    return matmul_reference(x, weight, torch.float64)


def distance(found, reference):
    return ((found - reference).norm() / reference.norm()).item()


def rounding(found, x, weight, exact):
    """The largest error, as a part of |x| |w| summed over the inputs."""
    x = x.reshape(-1, x.shape[-1]).float()
    size = x.abs().double() @ weight.dequantize().abs().double().T
    error = (found.reshape(size.shape) - expected(x, weight, exact)).abs()
    return (error / size.clamp(min=1e-12)).max().item()


@ROWS
@MODES
@pytest.mark.parametrize("group", [32, 64, 128])
def test_products_equal_the_reference(native, rows, exact, group):
    weight, x = weight_of(40, 512, group), gaussian(rows, 512)
    found = matmul(x, pack_weight(weight), exact=exact)
    assert distance(found, expected(x, weight, exact)) < 1e-6


@ROWS
def test_int8_activations_cost_less_than_a_hundredth(native, rows):
    weight, x = weight_of(256, 1024), gaussian(rows, 1024)
    found = matmul(x, pack_weight(weight), exact=False)
    assert 1e-4 < distance(found, matmul_reference(x, weight, torch.float64)) < 1e-2


@ROWS
@MODES
@SETS
@pytest.mark.parametrize("size", [(8, 32, 32), (24, 128, 64), (48, 512, 128)], ids=str)
def test_every_instruction_set_is_within_rounding(native, rows, exact, instructions, size):
    if instructions not in native.instruction_sets:
        pytest.skip(f"this processor has no {instructions}")
    outputs, inputs, group = size
    weight, x = weight_of(outputs, inputs, group), gaussian(rows, inputs)
    packed = pack_weight(weight)
    found = matmul(x, packed, exact=exact, options=CpuOptions(2, instructions))
    assert rounding(found, x, weight, exact) < 1e-6
    portable = matmul(x, packed, exact=exact, options=CpuOptions(1, "portable"))
    assert distance(found, portable) < 1e-6


@SETS
@MODES
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_sums_do_not_saturate(native, instructions, exact, sign):
    if instructions not in native.instruction_sets:
        pytest.skip(f"this processor has no {instructions}")
    weight = weight_of(16, 4096)
    weight.codes.fill_(15)
    weight.zeros.fill_(0)
    x = torch.full((5, 4096), sign)
    found = matmul(x, pack_weight(weight), exact=exact, options=CpuOptions(1, instructions))
    whole = sign * 15 * 128 * weight.scales.sum(1).expand(5, -1)
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)


@MODES
@pytest.mark.parametrize("zero", [0, 15])
def test_zero_points_at_the_ends(native, exact, zero):
    weight, x = weight_of(16, 256), gaussian(3, 256) + 1
    weight.zeros.fill_(zero)
    found = matmul(x, pack_weight(weight), exact=exact)
    assert rounding(found, x, weight, exact) < 1e-6


@MODES
@pytest.mark.parametrize("group", [WHOLE_ROW, 96, 192])
def test_longer_groups_are_cut_into_pieces(native, exact, group):
    weight, x = weight_of(16, 192, group), gaussian(5, 192)
    packed = pack_weight(weight)
    assert rounding(matmul(x, packed, exact=exact), x, weight, exact) < 1e-6


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_shape(native, data):
    group = data.draw(st.sampled_from([32, 64, 128]), "group")
    inputs = group * data.draw(st.integers(1, 4), "groups")
    weight = weight_of(8 * data.draw(st.integers(1, 7), "outputs / 8"), inputs, group)
    x = gaussian(data.draw(st.integers(1, 130), "rows"), inputs)
    exact = data.draw(st.booleans(), "exact")
    chosen = data.draw(st.sampled_from(native.instruction_sets), "instructions")
    options = CpuOptions(data.draw(st.integers(1, 3), "threads"), chosen)
    found = matmul(x, pack_weight(weight), exact=exact, options=options)
    assert rounding(found, x, weight, exact) < 1e-6


@MODES
@SETS
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_all_of_the_output_is_written_and_nothing_beside_it(
    native, exact, instructions, rows, monkeypatch
):
    if instructions not in native.instruction_sets:
        pytest.skip(f"this processor has no {instructions}")
    rooms = []

    def poisoned(self, *size):
        size = size[0] if isinstance(size[0], torch.Size) else size
        rooms.append(torch.full((prod(size) + 128,), float("nan")))
        return rooms[-1][64:-64].view(size)

    weight, x = weight_of(24, 128), gaussian(rows, 128)
    packed = pack_weight(weight)
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    found = matmul(x, packed, exact=exact, options=CpuOptions(1, instructions))
    monkeypatch.undo()
    assert rounding(found, x, weight, exact) < 1e-6
    assert rooms
    for room in rooms:
        assert room[:64].isnan().all()
        assert room[-64:].isnan().all()


@MODES
def test_x_of_any_shape_order_and_type(native, exact):
    weight = weight_of(16, 128)
    packed = pack_weight(weight)
    x = gaussian(128, 3, 2).permute(1, 2, 0)
    found = matmul(x, packed, exact=exact)
    assert found.shape == (3, 2, 16)
    torch.testing.assert_close(found, matmul(x.contiguous(), packed, exact=exact), rtol=0, atol=0)
    assert torch.equal(matmul(x[0, 0], packed, exact=exact), found[0, 0])
    assert matmul(x[:0], packed, exact=exact).shape == (0, 2, 16)
    assert rounding(matmul(x.half(), packed, exact=exact), x.half(), weight, exact) < 1e-6


@MODES
@pytest.mark.parametrize("rows", [1, 66, 700])
def test_threads_change_no_bit(native, exact, rows):
    """700 rows are more than are prepared at a time."""
    packed, x = pack_weight(weight_of(520, 1024)), gaussian(rows, 1024)
    alone = matmul(x, packed, exact=exact, options=CpuOptions(1))
    for threads in (2, 5):
        found = matmul(x, packed, exact=exact, options=CpuOptions(threads))
        torch.testing.assert_close(found, alone, rtol=0, atol=0)


def test_callers_in_several_threads(native):
    packed, x = pack_weight(weight_of(256, 1024)), gaussian(9, 1024)
    alone = matmul(x, packed, exact=False, options=CpuOptions(1))
    with ThreadPoolExecutor(4) as callers:
        calls = [
            callers.submit(matmul, x, packed, exact=False, options=CpuOptions(3))
            for _ in range(200)
        ]
        assert all(torch.equal(call.result(), alone) for call in calls)


FORK = """
import os, pathlib, signal, sys, torch
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.kernels.matmul_w4a16 import matmul, pack_weight
from mindpress.kernels.matmul_w4a16.cpu import CpuOptions
from mindpress.kernels.native import library

library.FOLDER = pathlib.Path(sys.argv[1])
packed = pack_weight(QuantizedWeight(
    torch.randint(0, 16, (1024, 1024), dtype=torch.uint8), torch.rand(1024, 8),
    torch.randint(0, 16, (1024, 8), dtype=torch.uint8), QuantSpec(4, 128),
))
x = torch.randn(20, 1024)
multiply = lambda: matmul(x, packed, exact=False, options=CpuOptions(3))
before = multiply()
child = os.fork()
signal.alarm(20)
same = torch.equal(multiply(), before)
threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 3
if child == 0:
    os._exit(0 if same and threads >= 3 else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_after_fork_has_threads_of_its_own(native):
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(library.FOLDER)]
    subprocess.run(command, check=True, timeout=60)


@MODES
def test_values_that_are_not_finite_are_not_hidden(native, exact):
    x = gaussian(2, 128)
    x[0, 5], x[1, 5] = float("nan"), float("inf")
    assert not matmul(x, pack_weight(weight_of(16, 128)), exact=exact).isfinite().any()


@MODES
def test_rows_of_zeros_and_of_the_smallest_values(native, exact):
    packed = pack_weight(weight_of(16, 128))
    assert not matmul(torch.zeros(2, 128), packed, exact=exact).any()
    assert matmul(torch.full((1, 128), 1e-42), packed, exact=exact).abs().max() < 1e-36


@pytest.mark.parametrize("instructions", ["portable", "avx2"])
def test_many_rows_are_multiplied_with_panels(native, instructions, monkeypatch):
    """From a number of rows on that depends on the instructions; both ways agree."""
    if instructions not in native.instruction_sets:
        pytest.skip(f"this processor has no {instructions}")
    weight, rows = weight_of(40, 256), cpu.PANEL_ROWS[instructions]
    packed, x = pack_weight(weight), gaussian(rows, 256)
    panels = []
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: panels.append(1) or multiply(*a, **k))
    options = CpuOptions(1, instructions)
    few = matmul(x[:-1], packed, exact=True, options=options)
    assert not panels
    many = matmul(x, packed, exact=True, options=options)
    assert panels
    torch.testing.assert_close(many[:-1], few, rtol=1e-5, atol=1e-5)


def test_wrong_inputs_are_refused():
    with pytest.raises(InputError, match="128 inputs, x has 64"):
        matmul(torch.zeros(1, 64), pack_weight(weight_of(16, 128)), exact=True)


def test_without_a_library_the_call_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "native", lambda: library.load(tmp_path / build.NAME))
    with pytest.raises(ResourceError, match="not compiled"):
        matmul(torch.zeros(1, 128), pack_weight(weight_of(16, 128)), exact=True)


def test_the_reference_is_the_product_of_what_the_codes_stand_for():
    weight, x = weight_of(8, 64, 32), gaussian(2, 3, 64)
    by_hand = torch.stack(
        [(weight.codes[n].float().view(2, 32) - weight.zeros[n].float()[:, None]).view(-1)
         * weight.scales[n].repeat_interleave(32) for n in range(8)]
    )  # fmt: skip
    torch.testing.assert_close(matmul_reference(x, weight), torch.nn.functional.linear(x, by_hand))
