"""The compiled kernels that write pages, against the reference."""

from dataclasses import replace

import pytest
import torch
from scattered_pages import CODES, CPU, FLOATS, HEADS, NAN, TOKENS, empty_pages, gaussian

from mindpress.errors import ConfigError, ResourceError
from mindpress.formats.cache_pages import PageShape, float_pages
from mindpress.kernels.cache_write.cpu import write_pages_cpu
from mindpress.kernels.cache_write.paged import write_pages_reference
from mindpress.kernels.native import call, library

KINDS = pytest.mark.parametrize("kind", FLOATS + CODES)
# Whole registers of every instruction set, parts of one, and an odd number in the halves of int4.
CHANNELS = pytest.mark.parametrize("channels", [10, 64, 80])


@KINDS
@CHANNELS
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e38])
def test_writing_equals_the_reference_bit_for_bit(instructions, kind, channels, size):
    x = gaussian(65, HEADS, channels) * size
    x[3], x[4] = 0.0, 2.5
    x[5, 0, 0], x[6, 1, 1], x[7, 0, 1] = NAN, float("inf"), -float("inf")
    x[9, 0, -1], x[11, 1, channels // 2], x[12, 0, 1] = NAN, NAN, NAN
    x[13] = size * (1 + torch.arange(channels) * 2.0**-11)  # float16 has nothing between two
    x[8, :, ::2] = x[8, :, 1::2]
    slots = torch.randperm(20 * TOKENS, generator=torch.Generator().manual_seed(4))[:65]
    slots[10] = -1
    x[10] = NAN
    found, expected = (empty_pages(kind, 20, channels) for _ in range(2))
    write_pages_reference(expected, slots, x)
    write_pages_cpu(found, slots, x, 2)
    for name in ("data", "scale", "low"):
        one, other = getattr(found, name), getattr(expected, name)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_writing_takes_any_order_and_type(instructions):
    x = gaussian(16, 9, HEADS).permute(1, 2, 0).half()
    found, expected = (empty_pages("token 8", 3, 16) for _ in range(2))
    slots = torch.randperm(18)[:9].int()
    write_pages_reference(expected, slots, x)
    write_pages_cpu(found, slots, x)
    assert torch.equal(found.data, expected.data)


def test_pages_that_the_kernels_do_not_read_are_refused(native):
    by_channel = float_pages(PageShape(2, HEADS, TOKENS, 16, by_channel=True), torch.float32, CPU)
    with pytest.raises(ConfigError, match="by channel"):
        write_pages_cpu(by_channel, torch.tensor([0]), gaussian(1, HEADS, 16))
    doubles = float_pages(PageShape(2, HEADS, TOKENS, 16), torch.float64, CPU)
    with pytest.raises(ConfigError, match="float64"):
        write_pages_cpu(doubles, torch.tensor([0]), gaussian(1, HEADS, 16))


def test_tensors_that_do_not_fit_their_pages_are_refused(native):
    online, fixed = empty_pages("token 8", 3, 16), empty_pages("head 8", 3, 16)
    assert online.scale is not None
    assert fixed.low is not None
    for wrong in (
        replace(online, data=online.data[:2]),
        replace(online, scale=online.scale[:, :1].contiguous()),
        replace(online, low=online.scale.float()),
        replace(fixed, low=fixed.low.repeat(1, 16)),
    ):
        with pytest.raises(ConfigError, match="do not fit pages"):
            write_pages_cpu(wrong, torch.tensor([0]), gaussian(1, HEADS, 16))


def test_without_a_library_the_call_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(call, "native", lambda: library.load(tmp_path / "libmindpress.so"))
    with pytest.raises(ResourceError, match="not compiled"):
        write_pages_cpu(empty_pages("float32", 1, 2), torch.tensor([0]), torch.zeros(1, HEADS, 2))
