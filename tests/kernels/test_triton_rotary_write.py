"""Turning and writing in one launch, in Triton's interpreter, against the reference."""

from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="no Triton")

import torch

from mindpress.errors import ConfigError
from mindpress.formats.cache_pages import PageShape, fixed_pages, float_pages, online_pages
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.rotary_write import HeadNorm, rotate_and_write_reference
from mindpress.kernels.rotary_write.gpu import rotate_and_write_triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS, KV_HEADS, PAGE = 2, 2, 4
# Of a sequence, the first and the third half a page apart; padding; another sequence.
SLOTS = [9, 10, 11, -1, 2]
NAN = float("nan")


def poisoned(kind, channels, by_channel, dtype):
    bits, granularity = kind.split()
    shape = PageShape(4, KV_HEADS, PAGE, channels, by_channel)
    if bits == "16":
        pages = float_pages(shape, dtype, DEVICE)
        pages.data.fill_(NAN)
        return pages
    spec = CacheSpec(int(bits), granularity=granularity)
    if granularity == "token":
        pages = online_pages(shape, spec, DEVICE)
        pages.scale.fill_(NAN)
        pages.low.fill_(NAN)
    else:
        scale = torch.full((KV_HEADS, 1), 8.0 / spec.largest, device=DEVICE)
        pages = fixed_pages(shape, spec, scale, torch.zeros_like(scale))
    pages.data.fill_(0xA5)
    return pages


def case(kind, channels=64, rotary=64, dtype=torch.float16, normed=True):
    """Fused rows, angles, norm, and two pairs of pages."""
    random = torch.Generator().manual_seed(3)
    rows = len(SLOTS)
    fused = 2 * torch.randn(rows, (HEADS + 2 * KV_HEADS) * channels, generator=random)
    angles = 6 * torch.rand(rows, rotary // 2, generator=random).to(DEVICE).repeat(1, 2)
    weights = 1 + torch.randn(HEADS + KV_HEADS, channels, generator=random) / 4
    norm = HeadNorm(weights.to(dtype).to(DEVICE), 1e-5) if normed else None
    pages = [poisoned(kind, channels, by_channel, dtype) for by_channel in (False, True)]
    copies = [
        replace(
            one,
            data=one.data.clone(),
            scale=None if one.scale is None else one.scale.clone(),
            low=None if one.low is None else one.low.clone(),
        )
        for one in pages
    ]
    fused = fused.to(dtype).to(DEVICE)
    return fused, (angles.cos(), angles.sin()), norm, tuple(pages), tuple(copies)


def both(*arguments, **options):
    fused, angles, norm, pages, copies = case(*arguments, **options)
    slots = torch.tensor(SLOTS, device=DEVICE)
    expected = rotate_and_write_reference(fused, angles, pages, slots, norm)
    got = rotate_and_write_triton(fused, angles, copies, slots, norm)
    return got, expected, copies, pages


@pytest.mark.parametrize(
    ("kind", "channels", "rotary", "normed"),
    [
        ("16 float", 64, 64, True),
        ("16 float", 66, 24, False),
        ("8 token", 64, 64, False),
        ("4 token", 66, 24, True),
        ("4 head", 64, 32, True),
    ],
)
def test_queries_are_turned_and_keys_and_values_stored(kind, channels, rotary, normed):
    got, expected, written, reference = both(kind, channels, rotary, normed=normed)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    keys, values = (
        (a.data.float(), b.data.float()) for a, b in zip(written, reference, strict=True)
    )
    torch.testing.assert_close(*values, rtol=0, atol=0, equal_nan=True)
    # Keys: a number in the last place of float16; a few codes on the edge of a step.
    torch.testing.assert_close(
        *keys, rtol=2e-3, atol=2e-3 if kind[0] == "1" else 17, equal_nan=True
    )
    assert (keys[0] == keys[1]).float().mean() > 0.98 - keys[1].isnan().float().mean()


def test_the_angles_are_those_of_complex_numbers():
    """Against a product of complex numbers in float64, of the reference."""
    fused, (cosines, sines), _, pages, _ = case("16 float", 64, 24, torch.float64)
    slots = torch.tensor(SLOTS, device=DEVICE)
    got = rotate_and_write_reference(fused, (cosines.double(), sines.double()), pages, slots)
    query = fused.unflatten(1, (-1, 64))[:, :HEADS]
    number = torch.complex(query[..., :12], query[..., 12:24])
    turned = number * torch.complex(cosines[:, :12], sines[:, :12]).unsqueeze(1)
    expected = torch.cat((turned.real, turned.imag, query[..., 24:]), dim=-1)
    torch.testing.assert_close(got, expected)
    assert torch.equal(pages[1].data[0, :, :, 2], fused.unflatten(1, (-1, 64))[4, -KV_HEADS:])


def test_heads_are_normed_before_they_are_turned():
    fused, (cosines, sines), norm, pages, _ = case("16 float", dtype=torch.float64)
    slots = torch.tensor(SLOTS, device=DEVICE)
    still = torch.ones_like(cosines), torch.zeros_like(sines)
    got = rotate_and_write_reference(fused, still, pages, slots, norm)
    query = fused.unflatten(1, (-1, 64))[:, :HEADS]
    expected = torch.nn.functional.rms_norm(query, (64,), eps=norm.eps) * norm.weights[:HEADS]
    torch.testing.assert_close(got, expected)


def test_bfloat16_loses_no_more_than_its_rounding():
    """The interpreter cuts off where GPUs round."""
    got, expected, _, _ = both("16 float", dtype=torch.bfloat16, normed=False)
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=1e-3)


def test_keys_by_channel_are_refused():
    fused, angles, norm, pages, _ = case("8 token")
    slots = torch.tensor(SLOTS, device=DEVICE)
    with pytest.raises(ConfigError, match="by token"):
        rotate_and_write_triton(fused, angles, pages[::-1], slots, norm)
