from dataclasses import replace

import pytest
import torch

from mindpress.errors import ConfigError, InputError, NumericError, ResourceError
from mindpress.formats.quantized import WHOLE_ROW, QuantizedWeight, QuantSpec
from mindpress.kernels.matmul_w4a16.reference import matmul_reference
from mindpress.kernels.matmul_w4a16.regimes import TileConfig, candidates, default_config
from mindpress.kernels.matmul_w4a16.tiles import tile_weight, untile_weight

gpu = pytest.importorskip("mindpress.kernels.matmul_w4a16.gpu", reason="no Triton")
CODES = TileConfig("codes", 8, 32, 1, 2)
CENTRED = TileConfig("centred", 16, 32, 1, 2)
ROUNDED = TileConfig("rounded", 16, 32, 1, 2)
DEQUANTIZE = TileConfig("dequantize")
METHODS = [CODES, CENTRED, ROUNDED, DEQUANTIZE]
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def weight_of(outputs, inputs, group=128, scales=torch.float16):
    generator = torch.Generator().manual_seed(outputs + inputs + group)
    spec = QuantSpec(4, group)
    size = outputs, inputs // spec.group_of(inputs)
    return QuantizedWeight(
        torch.randint(0, 16, (outputs, inputs), generator=generator, dtype=torch.uint8).to(DEVICE),
        (torch.rand(size, generator=generator) * 0.01 + 0.001).to(scales).to(DEVICE),
        torch.randint(0, 16, size, generator=generator, dtype=torch.uint8).to(DEVICE),
        spec,
    )


def gaussian(rows, inputs, dtype):
    generator = torch.Generator().manual_seed(rows * inputs)
    return torch.randn(rows, inputs, generator=generator).to(dtype).to(DEVICE)


def error(y, x, weight, rounded):
    """The largest error, in units of what one rounding of y, and of all weights, may cost."""
    exact = matmul_reference(x, weight, torch.float64)
    unit = torch.finfo(x.dtype).eps
    size = x.double().abs() @ weight.dequantize(torch.float32).double().abs().T
    # float32 sums; the interpreter truncates to bfloat16, which costs a whole unit, not half.
    allowed = unit * exact.abs() + 1e-6 * size + torch.finfo(x.dtype).smallest_normal * unit
    if rounded:
        allowed += 1.5 * unit * size / x.shape[-1] ** 0.5
    return ((y.double() - exact).abs() / allowed).max().item()


def check(rows, weight, dtype, config, **more):
    x = gaussian(rows, weight.codes.shape[1], dtype)
    y = gpu.matmul_triton(x, tile_weight(weight, dtype), config, **more)
    assert y.dtype == dtype
    rounded = config.method in ("rounded", "dequantize")
    assert error(y, x, weight, rounded) < 1
    assert error(torch.zeros_like(y), x, weight, rounded) > 10


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """Memory that nobody wrote to holds no number."""
    plain = torch.empty, torch.Tensor.new_empty

    def poison(made):
        return made.fill_(float("nan") if made.is_floating_point() else 0x7F)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(plain[0](*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poison(plain[1](*a, **k)))


@DTYPES
@pytest.mark.parametrize(("rows", "group"), [(1, 128), (3, 32), (8, 64), (5, 128)])
def test_few_rows(dtype, rows, group):
    check(rows, weight_of(40, 256, group), dtype, CODES)


@DTYPES
@pytest.mark.parametrize("config", [CENTRED, ROUNDED, DEQUANTIZE], ids=lambda one: one.method)
@pytest.mark.parametrize(("rows", "group"), [(1, 128), (3, 32), (5, 64), (63, 128)])
def test_more_rows(dtype, config, rows, group):
    check(rows, weight_of(40, 128, group), dtype, replace(config, block_rows=32))


@pytest.mark.parametrize("config", [CENTRED, ROUNDED], ids=lambda one: one.method)
def test_rows_of_more_tiles_than_are_neighbours(config):
    check(65, weight_of(40, 32, 32), torch.float16, replace(config, block_rows=8))


@pytest.mark.parametrize("config", METHODS, ids=lambda one: one.method)
@pytest.mark.parametrize(("inputs", "group"), [(96, 32), (192, 64), (192, WHOLE_ROW), (96, 96)])
def test_inputs_that_fill_no_block(config, inputs, group):
    check(3, weight_of(8, inputs, group), torch.float16, config)


@pytest.mark.parametrize("config", METHODS, ids=lambda one: one.method)
@pytest.mark.parametrize("group", [256, WHOLE_ROW])
def test_larger_groups_are_several_that_share_a_scale(config, group):
    check(3, weight_of(24, 512, group), torch.float16, config)


@pytest.mark.parametrize("outputs", [8, 24, 136])
def test_outputs_that_fill_no_tile(outputs):
    for config in (CODES, CENTRED):
        check(2, weight_of(outputs, 128), torch.float16, config)


@DTYPES
@pytest.mark.parametrize("config", [CODES, CENTRED, ROUNDED], ids=lambda one: one.method)
@pytest.mark.parametrize("split", [2, 3])
def test_inputs_in_parts(dtype, config, split):
    weight = weight_of(40, 384)
    room = gpu.new_workspace(split * 5 * 40, 8, torch.device(DEVICE))
    for _ in range(2):
        check(5, weight, dtype, replace(config, split=split), workspace=room)
        assert not room.arrived.any()


def test_parts_are_added_in_their_order():
    weight, x = weight_of(8, 384), gaussian(1, 384, torch.float16)
    tiled = tile_weight(weight, torch.float16)
    config = replace(CODES, split=3)
    room = gpu.new_workspace(24, 1, torch.device(DEVICE))
    y = gpu.matmul_triton(x, tiled, config, room)
    parts = room.partials.view(3, 1, 8)
    assert torch.equal(y, (parts[0] + parts[1] + parts[2]).half())
    assert torch.equal(y, gpu.matmul_triton(x, tiled, config, room))


def test_more_parts_than_blocks():
    check(2, weight_of(8, 256), torch.float16, replace(CODES, split=5))


@pytest.mark.parametrize("config", METHODS, ids=lambda one: one.method)
def test_nothing_beside_the_operands_counts(config):
    weight = weight_of(40, 160, 32)
    tiled = tile_weight(weight, torch.float16)
    tiled.words[:, 40:] = -1
    tiled.scales[:, 40:] = -1  # not a number
    tiled.words[1].bitwise_or_(-1 ^ 0x000F000F)  # all but the first quarter
    x = torch.full((9, 160), float("nan"), dtype=torch.float16, device=DEVICE)
    x[2:5] = gaussian(3, 160, torch.float16)
    y = gpu.matmul_triton(x[2:5], tiled, config)
    rounded = config.method in ("rounded", "dequantize")
    assert error(y, x[2:5], weight, rounded) < 1


@pytest.mark.parametrize("config", METHODS, ids=lambda one: one.method)
@pytest.mark.parametrize(("code", "zero"), [(15, 0), (0, 15), (15, 15), (0, 0), (7, 8)])
def test_extreme_codes(config, code, zero):
    weight = weight_of(8, 128)
    weight.codes.fill_(code)
    weight.zeros.fill_(zero)
    weight.scales.fill_(2**-7)
    x = torch.full((2, 128), 2.0, dtype=torch.float16, device=DEVICE)
    x[1] = 0
    y = gpu.matmul_triton(x, tile_weight(weight, torch.float16), config)
    assert (y[0] == 2 * (code - zero)).all()
    assert (y[1] == 0).all()


@DTYPES
@pytest.mark.parametrize("config", METHODS, ids=lambda one: one.method)
@pytest.mark.parametrize(("size", "scale"), [(60000.0, 2**-10), (2**-20, 8.0)])
def test_sums_of_very_large_and_very_small_activations(dtype, config, size, scale):
    weight = weight_of(8, 256)
    weight.scales.fill_(scale)
    x = (gaussian(2, 256, torch.float32).clamp(-1, 1) * size).to(dtype)
    y = gpu.matmul_triton(x, tile_weight(weight, dtype), config)
    assert error(y, x, weight, config.method in ("rounded", "dequantize")) < 1


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("slices", [7, 2**20])
def test_dequantized_weights_are_those_of_the_codes(group, slices, monkeypatch):
    monkeypatch.setattr("mindpress.kernels.matmul_w4a16.tiles.SLICE_WEIGHTS", 256 * slices)
    weight = weight_of(40, 256, group)
    tiled = tile_weight(weight, torch.float16)
    assert torch.equal(gpu.dequantize_triton(tiled), weight.dequantize(torch.float16))
    found = gpu.dequantize_triton(tile_weight(weight, torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), weight.dequantize(torch.float32), rtol=2**-7, atol=0)


def test_many_rows_by_slices_of_the_weight(monkeypatch):
    monkeypatch.setattr(gpu, "SLICE_WEIGHTS", 32 * 96)
    check(3, weight_of(72, 96, 32), torch.float16, DEQUANTIZE)


def test_tiles_are_chosen_by_the_number_of_rows():
    weight = weight_of(8, 128)
    tiled = tile_weight(weight, torch.float16)
    for rows in (1, 17, 300):
        x = gaussian(rows, 128, torch.float16)
        assert error(gpu.matmul_triton(x, tiled), x, weight, rounded=True) < 1
    x = gaussian(6, 128, torch.float16).view(2, 3, 128)
    assert gpu.matmul_triton(x, tiled).shape == (2, 3, 8)
    assert gpu.matmul_triton(x[:0], tiled).shape == (0, 3, 8)
    strided = gaussian(128, 3, torch.float16).T
    assert error(gpu.matmul_triton(strided, tiled), strided, weight, rounded=False) < 1


def test_a_workspace_for_all_default_tiles():
    weights = [tile_weight(weight_of(*size), torch.float16) for size in [(8, 1024), (264, 512)]]
    room = gpu.workspace_for(weights, 70)
    for weight in weights:
        for rows in range(1, 71):
            config = default_config(80, rows, weight.outputs, weight.inputs, weight.group_size)
            assert config.partial_sums(rows, weight.outputs) <= room.partials.numel()
            assert config.tiles(rows, weight.outputs) <= room.arrived.numel()
    assert not room.arrived.any()
    assert room.partials.numel() < 16 * 70 * 264


def test_what_cannot_be_multiplied_is_refused():
    tiled = tile_weight(weight_of(8, 384), torch.float16)
    x = gaussian(2, 384, torch.float16)
    with pytest.raises(InputError, match="384 inputs, x has 383"):
        gpu.matmul_triton(x[:, 1:], tiled)
    with pytest.raises(InputError, match=r"float16, x has torch\.bfloat16"):
        gpu.matmul_triton(x.bfloat16(), tiled)
    with pytest.raises(InputError, match="tiles of 1 rows cannot take 2"):
        gpu.matmul_triton(x, tiled, replace(CODES, block_rows=1))
    small = gpu.new_workspace(47, 1, torch.device(DEVICE))
    with pytest.raises(ResourceError, match="47 sums of 1 tiles, the product makes 48 of 1"):
        gpu.matmul_triton(x, tiled, replace(CODES, split=3), small)


def test_weights_that_cannot_be_tiled_are_refused():
    weight = weight_of(8, 64, 64)
    with pytest.raises(ConfigError, match="float32"):
        tile_weight(weight, torch.float32)
    with pytest.raises(ConfigError, match="these have 8"):
        tile_weight(replace(weight, spec=QuantSpec(8, 64)), torch.float16)
    with pytest.raises(ConfigError, match="multiple of 32 inputs, not 16"):
        tile_weight(weight_of(8, 64, 16), torch.float16)
    with pytest.raises(ConfigError, match="multiple of 8 outputs, not 9"):
        tile_weight(weight_of(9, 64, 64), torch.float16)
    with pytest.raises(ConfigError, match="codes from 0 to 15"):
        tile_weight(replace(weight, codes=weight.codes + 1), torch.float16)
    with pytest.raises(ConfigError, match="zeros from 0 to 15"):
        tile_weight(replace(weight, zeros=weight.zeros + 16), torch.float16)
    with pytest.raises(NumericError, match="not finite"):
        tile_weight(replace(weight, scales=weight.scales * float("inf")), torch.float16)


@pytest.mark.parametrize("scales", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("inputs", "group"), [(96, 32), (256, 128), (192, 64)])
def test_untiling_gives_the_weight_back(scales, inputs, group):
    weight = weight_of(24, inputs, group, scales)
    found = untile_weight(tile_weight(weight, torch.float16))
    assert torch.equal(found.codes, weight.codes)
    assert torch.equal(found.zeros, weight.zeros)
    exact = 0.0 if scales != torch.float32 else 2**-20
    torch.testing.assert_close(found.scales, weight.scales.float(), rtol=exact, atol=0)


def test_a_word_by_hand():
    weight = weight_of(8, 128)
    weight.codes.zero_()
    for bits, code in enumerate([6, 7, 38, 39, 70, 71, 102, 103], start=1):
        weight.codes[5, code] = bits
    tiled = tile_weight(weight, torch.float16)
    # Inputs 6 and 7 of each quarter; quarters at nibbles 0, 2, 1 and 3 of both halves.
    assert tiled.words[0, 5, 3].item() == 0x8462_7351 - 2**32
    assert tiled.words.count_nonzero() == 1
    weight.scales[5, 0] = 1.5
    weight.zeros[5, 0] = 9
    assert tile_weight(weight, torch.float16).scales[0, 5].item() == 0x3FC0_0009
    assert tiled.nbytes == 128 * 64 + 128 * 4


@pytest.mark.parametrize("capability", [80, 86, 87, 89, 90, 100, 103, 120, 121])
@pytest.mark.parametrize("rows", [1, 8, 9, 16, 17, 32, 33, 64, 65, 256, 257, 5000])
def test_tiles_fit_the_product(capability, rows):
    for outputs, inputs, group in [(4096, 4096, 128), (8, 32, 32), (1024, 11008, 64)]:
        every = candidates(capability, rows, outputs, inputs, group)
        assert every[0] == default_config(capability, rows, outputs, inputs, group)
        assert len(set(every)) == len(every) <= 12
        for config in every:
            assert config.method != "codes" or rows <= config.block_rows
            assert 1 <= config.split <= -(-inputs // 128)
            assert 128 % config.block_outputs == 0


def test_idle_processors_get_parts_of_the_inputs():
    assert default_config(90, 1, 4096, 4096, 128).split == 8
    assert default_config(90, 1, 128256, 4096, 128).split == 1
    assert default_config(90, 300, 4096, 4096, 128).method == "dequantize"
    with pytest.raises(ConfigError, match=r"8\.0, this GPU has 7\.5"):
        default_config(75, 1, 4096, 4096, 128)
