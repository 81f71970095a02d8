import pytest
import torch

from mindpress.errors import InputError, ResourceError
from mindpress.kernels.matmul_w8a8 import (
    Int8Weight,
    TileConfig,
    candidates,
    default_config,
    matmul_w8a8_reference,
    quantize_weight,
)
from mindpress.kernels.matmul_w8a8.tiles import SHARED
from mindpress.kernels.matmul_w8a8.workspace import Workspace, new_workspace
from mindpress.kernels.quantize_rows import Int8Rows, quantize_rows_reference

gpu = pytest.importorskip("mindpress.kernels.matmul_w8a8.gpu", reason="no Triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def operands(rows, outputs, inputs):
    generator = torch.Generator().manual_seed(rows + outputs + inputs)
    x = torch.randint(-127, 128, (rows, inputs), generator=generator, dtype=torch.int8)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
    scales = torch.rand(rows + outputs, generator=generator) * 0.01 + 1e-4
    return (
        Int8Rows(x.to(DEVICE), scales[:rows].to(DEVICE)),
        Int8Weight(weight.to(DEVICE), scales[rows:].to(DEVICE)),
    )


def within_poison(tensor, room=64):
    """The same numbers, between others that would show in every sum."""
    poison = 99 if tensor.dtype == torch.int8 else float("nan")
    whole = torch.full((tensor.numel() + 2 * room,), poison, dtype=tensor.dtype, device=DEVICE)
    inner = whole[room:-room].view(tensor.shape)
    return inner.copy_(tensor)


def used(config, rows, outputs):
    """A workspace as a product left it: sums of others, counters 0."""
    workspace = new_workspace(config, rows, outputs, DEVICE)
    workspace.partials.fill_(-(2**31))
    return workspace


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "config"),
    [
        (1, 32, 256, TileConfig(16, 32, 64, split=2)),
        (3, 40, 160, TileConfig(16, 32, 64, split=3)),  # tails of outputs and inputs
        (16, 32, 96, TileConfig(16, 16, 64, split=2)),
        (63, 24, 128, TileConfig(32, 32, 64)),
        (65, 72, 96, TileConfig(32, 32, 64, split=2, group=2)),
        (65, 136, 64, TileConfig(64, 64, 32, group=2)),
    ],
    ids=str,
)
def test_products_equal_the_reference_bit_for_bit(monkeypatch, rows, outputs, inputs, config):
    x, weight = operands(rows, outputs, inputs)
    expected = matmul_w8a8_reference(x, weight)
    x = Int8Rows(within_poison(x.codes), within_poison(x.scales))
    weight = Int8Weight(within_poison(weight.codes), within_poison(weight.scales))
    room = torch.full((rows * outputs + 128,), float("nan"), device=DEVICE)
    workspace = used(config, rows, outputs)
    monkeypatch.setattr(torch, "empty", lambda *size, **_: room[64:-64].view(size))
    found = gpu.matmul_w8a8(x, weight, config=config, workspace=workspace)
    monkeypatch.undo()
    assert torch.equal(found, expected)
    assert expected.abs().amin(1).max() > 0
    assert room[:64].isnan().all()
    assert room[-64:].isnan().all()
    assert not workspace.counters.any()


def test_a_workspace_serves_one_product_after_the_other():
    config = TileConfig(16, 32, 64, split=2)
    workspace = used(config, 16, 64)
    for rows, outputs in ((16, 64), (2, 32), (16, 64)):
        x, weight = operands(rows, outputs, 128)
        found = gpu.matmul_w8a8(x, weight, config=config, workspace=workspace)
        assert torch.equal(found, matmul_w8a8_reference(x, weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_result_is_rounded_once(dtype):
    x, weight = operands(5, 32, 64)
    found = gpu.matmul_w8a8(x, weight, dtype)
    exact = matmul_w8a8_reference(x, weight)
    assert found.dtype == dtype
    if dtype == torch.float16:
        assert torch.equal(found, exact.to(dtype))
    else:  # the interpreter cuts off what it should round
        bound = exact.abs() * torch.finfo(dtype).eps
        assert ((found.float() - exact).abs() <= bound).all()


def test_the_largest_sums_do_not_overflow():
    inputs = 1024
    codes = torch.full((16, inputs), 127, dtype=torch.int8, device=DEVICE)
    ones = torch.ones(16, device=DEVICE)
    config = TileConfig(16, 16, 512, split=2)
    found = gpu.matmul_w8a8(Int8Rows(codes, ones), Int8Weight(-codes, ones), config=config)
    assert torch.equal(found, torch.full_like(found, -127.0 * 127 * inputs))


def test_a_row_or_channel_that_is_no_number_shows():
    x, weight = torch.randn(4, 32), torch.randn(8, 32)
    x[1, 3], weight[2, 5] = float("inf"), float("nan")
    rows, channels = quantize_rows_reference(x), quantize_weight(weight)
    moved = Int8Rows(rows.codes.to(DEVICE), rows.scales.to(DEVICE))
    found = gpu.matmul_w8a8(
        moved, Int8Weight(channels.codes.to(DEVICE), channels.scales.to(DEVICE))
    )
    shows = torch.zeros(4, 8, dtype=torch.bool, device=DEVICE)
    shows[1], shows[:, 2] = True, True
    assert torch.equal(found.isnan(), shows)


def test_the_reference_is_near_the_product_of_floats():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, 256, generator=generator), torch.randn(24, 256, generator=generator)
    found = matmul_w8a8_reference(quantize_rows_reference(x), quantize_weight(weight))
    exact = x @ weight.T
    assert 1e-4 < (found - exact).norm() / exact.norm() < 2e-2


def test_no_rows_give_no_rows():
    x, weight = operands(0, 16, 32)
    assert gpu.matmul_w8a8(x, weight).shape == (0, 16)


def test_what_does_not_fit_is_refused():
    x, weight = operands(2, 12, 64)
    with pytest.raises(InputError, match="multiple of 8"):
        gpu.matmul_w8a8(x, weight)
    with pytest.raises(InputError, match="has 64 inputs, x has 32"):
        matmul_w8a8_reference(operands(2, 8, 32)[0], weight)
    x, weight = operands(2, 16, 128)
    turned = Int8Weight(weight.codes.T.contiguous().T, weight.scales)
    with pytest.raises(InputError, match="one piece"):
        gpu.matmul_w8a8(x, turned)
    config = TileConfig(16, 16, 32, split=2)
    small = Workspace(*(torch.zeros(1, dtype=torch.int32, device=DEVICE) for _ in range(2)))
    with pytest.raises(ResourceError, match="512 sums and 1 tiles"):
        gpu.matmul_w8a8(x, weight, config=config, workspace=small)
    wide = torch.zeros(1, 2**17 + 32, dtype=torch.int8)
    one = torch.ones(1)
    with pytest.raises(InputError, match="overflow"):
        matmul_w8a8_reference(Int8Rows(wide, one), Int8Weight(wide, one))


SHAPES = [(1, 4096, 4096), (16, 28672, 8192), (24, 4096, 96), (64, 1024, 4096), (4096, 11008, 4096)]


@pytest.mark.parametrize("capability", [*SHARED, 75])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_candidate_fits_the_gpu(capability, shape):
    found = candidates(capability, *shape)
    assert found[0] == default_config(capability, *shape)
    assert len(set(found)) == len(found) > 3
    assert all(config.shared <= SHARED.get(capability, SHARED[86]) for config in found)
    assert all(
        config.split == 1 or config.split * config.block_inputs < shape[2] + config.block_inputs
        for config in found
    )


def test_one_row_keeps_every_multiprocessor_busy():
    config = default_config(90, 1, 4096, 4096)
    assert config.tiles(1, 4096) * config.split >= 132
    assert default_config(90, 4096, 4096, 4096).split == 1
