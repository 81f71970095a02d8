import pytest
import torch
from tiny_awq import random_weight

from mindpress.errors import InputError
from mindpress.formats.quantized import QuantSpec
from mindpress.formats.turbomind import (
    decode,
    encode,
    pack_scales_zeros,
    pack_tiles,
    sizes,
    unpack_scales_zeros,
    unpack_tiles,
)


def random_codes(inputs, outputs):
    generator = torch.Generator().manual_seed(inputs * outputs)
    return torch.randint(16, (inputs, outputs), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (128, 64), (160, 224)], ids=str)
def test_unpacking_undoes_tiles(size):
    codes = random_codes(*size)
    assert torch.equal(unpack_tiles(pack_tiles(codes), *size), codes)


def test_every_code_lies_where_the_mma_lane_reads_it():
    """The place of each code by the formula, one code at a time."""
    inputs, outputs = 64, 96
    codes = random_codes(inputs, outputs)
    words = [0] * (inputs * outputs // 8)
    for k in range(inputs):
        for m in range(outputs):
            row, column = k % 32, m % 32
            tile = (k // 32) * (outputs // 32) + m // 32
            lane = (column % 8) * 4 + (row % 8) // 2
            word = 2 * (row // 16) + column // 16
            nibble = 4 * (row % 2) + 2 * ((row // 8) % 2) + (column // 8) % 2
            words[128 * tile + 4 * lane + word] |= int(codes[k, m]) << (4 * nibble)
    packed = pack_tiles(codes).flatten().to(torch.int64) & 0xFFFFFFFF
    assert packed.tolist() == words


def test_a_zero_is_stored_as_64_plus_it_before_its_scale():
    zeros = torch.arange(16, dtype=torch.uint8).view(2, 8)
    scales = torch.full((2, 8), 0.5)
    pairs = pack_scales_zeros(scales, zeros)
    bits = pairs.view(torch.int16)
    assert bits[..., 0].flatten().tolist() == [0x5400 + 16 * z for z in range(16)]
    assert (pairs[..., 1] == 0.5).all()
    back = unpack_scales_zeros(pairs)
    assert torch.equal(back[0], scales.half())
    assert torch.equal(back[1], zeros)


def test_plain_words_hold_neighbouring_outputs_lowest_bits_first():
    spec = QuantSpec(group_size=32)
    weight = random_weight(8, 32, spec, torch.Generator().manual_seed(0))
    word = int(encode(weight, "yaml")["qweight"][5, 0]) & 0xFFFFFFFF
    assert [word >> (4 * i) & 15 for i in range(8)] == weight.codes[:, 5].tolist()


@pytest.mark.parametrize("layout", ["ini", "yaml"])
@pytest.mark.parametrize("group", [32, 128])
def test_decoding_undoes_encoding_of_codes(layout, group):
    spec = QuantSpec(group_size=group)
    weight = random_weight(96, 256, spec, torch.Generator().manual_seed(0))
    files = encode(weight, layout)
    expected = sizes(96, 256, layout, spec)
    assert {name: data.numel() * data.element_size() for name, data in files.items()} == expected
    back = decode({name: data.flatten() for name, data in files.items()}, 96, 256, spec)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(back.zeros, weight.zeros)
    assert torch.equal(back.scales, weight.scales)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_decoding_undoes_encoding_of_floats(dtype):
    weight = torch.randn(24, 40).to(dtype)
    file = encode(weight, "ini")["weight"]
    assert file.shape == (40, 24)
    assert torch.equal(decode({"weight": file.flatten()}, 24, 40, None), weight)


@pytest.mark.parametrize("value", [16.0, 0.5, -1.0, float("nan")])
def test_zero_points_that_are_no_codes_are_refused(value):
    spec = QuantSpec(group_size=32)
    weight = random_weight(32, 32, spec, torch.Generator().manual_seed(0))
    files = {name: data.flatten() for name, data in encode(weight, "yaml").items()}
    files["zeros"][3] = value
    with pytest.raises(InputError, match="zero point"):
        decode(files, 32, 32, spec)
