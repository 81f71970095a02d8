import pytest
import torch

from mindpress.engine.quantized_cache import fixed_codes, online_codes
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_write import write_tokens

CPU = torch.device("cpu")
SPECS = [CacheSpec(bits, symmetric) for bits in (8, 4) for symmetric in (False, True)]


def written(x, spec, room=7, begin=2):
    """What codes in the middle of a larger, poisoned room stand for."""
    batch, heads, length, channels = x.shape
    kept = online_codes(batch, heads, channels, spec, CPU).with_room(room + length, 0)
    for part in (kept.codes, kept.scale, kept.low):
        if part is not None:
            part.fill_(255 if part.dtype == torch.uint8 else float("nan"))
    write_tokens(kept, begin, x)
    return kept, kept.part(begin, begin + length).dequantized()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 2), (2, 3, 5, 6), (1, 2, 33, 128)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_value_is_within_half_a_step(spec, size, dtype):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype) + 3
    _, found = written(x, spec)
    x = x.float()
    low, high = x.aminmax(dim=-1, keepdim=True)
    span = 2 * torch.maximum(low.abs(), high.abs()) if spec.symmetric else high - low
    step = span / (2**spec.bits - (2 if spec.symmetric else 1))
    rounding = 2e-3 * x.abs().amax(-1, keepdim=True)  # of scale and low to float16
    assert ((found - x).abs() <= step / 2 + rounding).all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_nothing_beside_the_new_positions_is_touched(spec):
    kept, _ = written(torch.randn(1, 2, 3, 8), spec, room=4, begin=2)
    for part in (kept.codes, kept.scale, kept.low):
        if part is not None:
            outside = torch.cat((part[:, :, :2], part[:, :, 5:]), dim=2)
            poison = outside == 255 if part.dtype == torch.uint8 else outside.isnan()
            assert poison.all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("value", [0.0, 5.0, 1e-9, -60000.0])
def test_a_constant_token_stays_what_it_is(spec, value):
    x = torch.full((1, 1, 2, 4), value)
    _, found = written(x, spec)
    torch.testing.assert_close(found, x, rtol=2e-3, atol=1e-6)


def test_values_beyond_float16_stay_finite():
    x = torch.tensor([1e6, -1e6, 3.0, 0.0]).view(1, 1, 1, 4)
    for spec in SPECS:
        assert written(x, spec)[1].isfinite().all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_hidden(spec, value):
    x = torch.randn(1, 1, 2, 4)
    x[0, 0, 1, 2] = value
    found = written(x, spec)[1]
    assert found[0, 0, 0].isfinite().all()
    assert not found[0, 0, 1].isfinite().any()


@pytest.mark.parametrize("bits", [8, 4])
def test_calibrated_scales_give_the_codes_of_lmdeploys_engine(bits):
    """u = round_half_even((x - zero) / scale + middle), saturated (its docs: kv_int8.md)."""
    spec = CacheSpec(bits, granularity="channel")
    scale, zero = torch.tensor([[0.5, 0.25, 2.0, 0.0]]), torch.tensor([[0.0, 1.0, -3.0, 7.0]])
    kept = fixed_codes(1, 4, spec, scale, zero).with_room(3, 0)
    x = torch.tensor([[0.75, 1.1, 5.0, 9.0], [-99.0, 99.0, -3.0, 7.0], [1.25, 0.9, 0.0, 7.0]])
    write_tokens(kept, 0, x.view(1, 1, 3, 4))
    codes = torch.cat([half.int() for half in kept.halves()], dim=-1)[0, 0]
    expected = torch.round((x - zero) / scale + spec.middle).clamp(0, spec.largest)
    assert torch.equal(codes[:, :3], expected[:, :3].int())
    assert (kept.dequantized()[..., 3] == 7.0).all()  # a constant channel


@pytest.mark.parametrize(("bits", "symmetric", "bytes_of_a_token"),
                         [(8, True, 2 * (64 + 2)), (8, False, 2 * (64 + 4)),
                          (4, False, 2 * (32 + 4)), (4, True, 2 * (32 + 2))])  # fmt: skip
def test_bytes_are_counted_with_their_scales(bits, symmetric, bytes_of_a_token):
    spec = CacheSpec(bits, symmetric)
    kept = online_codes(3, 2, 64, spec, CPU).with_room(5, 0)
    assert kept.bytes_per_position == bytes_of_a_token
    assert kept.part(0, 0).bytes_per_position == bytes_of_a_token
    held = [part for part in (kept.codes, kept.scale, kept.low) if part is not None]
    assert sum(part.nbytes for part in held) == 3 * 5 * bytes_of_a_token
