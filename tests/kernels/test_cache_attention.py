import pytest
import torch

from mindpress.engine.attention import attend, view_of
from mindpress.engine.quantized_cache import fixed_codes, online_codes
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention import Scores, attend_codes, pieces
from mindpress.kernels.cache_attention.reference import attend_reference
from mindpress.kernels.cache_write import write_tokens

CPU = torch.device("cpu")
KINDS = ["token", "token symmetric", "head", "channel"]


def stored(x, bits, kind):
    """`x` as codes in a room that is larger and poisoned, cut to its positions."""
    batch, heads, length, channels = x.shape
    spec = CacheSpec(bits, symmetric="symmetric" in kind, granularity=kind.split()[0])
    if kind.startswith("token"):
        kept = online_codes(batch, heads, channels, spec, CPU)
    else:
        over = (0, 2, 3) if kind == "head" else (0, 2)
        low, high = x.amin(over, keepdim=True)[0, :, 0], x.amax(over, keepdim=True)[0, :, 0]
        kept = fixed_codes(batch, channels, spec, (high - low) / spec.largest, (high + low) / 2)
    kept = kept.with_room(length + 5, 0)
    kept.codes.fill_(255)
    if not kept.fixed:
        kept.scale.fill_(float("nan"))
    write_tokens(kept, 0, x)
    return kept.part(0, length)


def made(past, length, *, batch=2, heads=6, kv_heads=2, channels=10, bits=8, kind="token"):
    generator = torch.Generator().manual_seed(past * 100 + length)
    query = torch.randn(batch, heads, length, channels, generator=generator)
    size = batch, kv_heads, past + length, channels
    keys, values = (torch.randn(size, generator=generator) + 1 for _ in range(2))
    return query, stored(keys, bits, kind), stored(values, bits, kind)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize(("past", "length"), [(0, 1), (0, 9), (70, 1), (65, 6)])
def test_pieces_equal_the_reference(past, length, cap, window, kind, bits, monkeypatch):
    monkeypatch.setattr(pieces, "BYTES_AT_ONCE", 1)
    monkeypatch.setattr(pieces, "FEWEST_POSITIONS", 8)
    monkeypatch.setattr(pieces, "QUERIES_AT_ONCE", 24)
    query, keys, values = made(past, length, bits=bits, kind=kind)
    scores = Scores(0.3, past, window, cap)
    found = attend_codes(query, keys, values, scores)
    torch.testing.assert_close(found, attend_reference(query, keys, values, scores))


@pytest.mark.parametrize("window", [None, 5])
def test_the_reference_is_the_attention_of_floats(window):
    """On what the codes stand for, so that nothing but the order of sums differs."""
    query, keys, values = made(12, 4)
    floats = keys.dequantized(), values.dequantized()
    expected = attend(query, *floats, view_of(12, 4, window, CPU), scale=0.3, cap=None)
    found = attend_reference(query, keys, values, Scores(0.3, 12, window))
    torch.testing.assert_close(found, expected)


def test_scores_far_below_the_largest_do_no_harm():
    """exp underflows, and a piece may hold nothing that a query sees."""
    query, keys, values = made(300, 2, bits=8)
    scores = Scores(500.0, 300, window=3)
    found = attend_codes(query, keys, values, scores)
    torch.testing.assert_close(found, attend_reference(query, keys, values, scores))


def test_16_bit_queries_give_16_bit_answers():
    query, keys, values = made(20, 3)
    found = attend_codes(query.bfloat16(), keys, values, Scores(0.3, 20))
    assert found.dtype == torch.bfloat16
    exact = attend_reference(query.bfloat16().float(), keys, values, Scores(0.3, 20))
    torch.testing.assert_close(found.float(), exact, rtol=1e-2, atol=1e-2)
