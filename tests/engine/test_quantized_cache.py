"""A decoder whose keys and values are kept in 8 or 4 bits."""

import pytest
import torch
from tiny_models import FAMILIES, save_tiny

from mindpress.engine.cache_figures import cache_plans, measure_caches
from mindpress.engine.cache_plan import CachePlan, online_plan, plan_cache
from mindpress.engine.config import EngineConfig, quant_policy_of
from mindpress.engine.loader import load_decoder
from mindpress.engine.perplexity import score_windows
from mindpress.errors import ConfigError, InputError
from mindpress.formats.cache_scales import CacheRanges, CacheScales, Ranges, scales_of
from mindpress.formats.cache_spec import CacheSpec
from mindpress.kernels.cache_attention import pieces
from mindpress.sources.folder import open_folder

CPU = EngineConfig("cpu")
VARIANTS = {family: (family, {}) for family in FAMILIES} | {
    "one kv head": ("llama", {"num_key_value_heads": 1}),
    "no groups": ("llama", {"num_key_value_heads": 4}),
    "a window": ("mistral", {"sliding_window": 24}),
    "a part is rotated": ("phi3", {"partial_rotary_factor": 0.5}),
}


def some_ids(batch=1, length=60):
    return torch.randint(0, 4096, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_tiny("llama", folder, dtype=torch.float32, tokenizer=False)
    return load_decoder(open_folder(folder), CPU)


def plan_of(granularity, shape, bits=8):
    """Calibrated scales for values from -4 to 4, or online ones."""
    size = shape.layers, shape.kv_heads, shape.head_dim
    ranges = Ranges(torch.full(size, -4.0), torch.full(size, 4.0))
    spec = CacheSpec(bits, granularity=granularity)
    return CachePlan(scales_of(CacheRanges(ranges, ranges), spec, shape.rotary_dim))


def logits(decoder, ids, steps=None):
    """Of every token; read at once, or `steps` tokens at a time."""
    cache, length = decoder.new_cache(len(ids)), ids.shape[1]
    found = [decoder.hidden(piece, cache, length) for piece in ids.split(steps or length, dim=1)]
    return decoder.logits(torch.cat(found, dim=1))


def divergence(ours, theirs):
    ours, theirs = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1).mean().item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_predicts_nearly_the_same(variant, tmp_path):
    """Windows shorter than the text, caps, groups, partial rotary: all through the codes."""
    family, overrides = VARIANTS[variant]
    save_tiny(family, tmp_path, dtype=torch.float32, tokenizer=False, **overrides)
    source = open_folder(tmp_path)
    exact, int8, int4 = (
        load_decoder(source, EngineConfig("cpu", quant_policy=policy)) for policy in (0, 8, 4)
    )
    ids = some_ids(2)
    expected = logits(exact, ids)
    uniform = divergence(torch.zeros_like(expected), expected)
    near, far = (divergence(logits(one, ids), expected) for one in (int8, int4))
    assert 0 < near < 1e-4 * uniform
    assert near < far < 0.05 * uniform


@pytest.mark.parametrize("granularity", ["token", "tensor", "head", "channel"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_text_read_in_steps_is_the_text_read_at_once(decoder, granularity, bits, monkeypatch):
    monkeypatch.setattr(pieces, "BYTES_AT_ONCE", 1)
    monkeypatch.setattr(pieces, "FEWEST_POSITIONS", 16)
    one = decoder.with_cache(plan_of(granularity, decoder.shape, bits))
    ids = some_ids(2)
    # A product of other size rounds otherwise, which can move a code by one.
    exact, at_once = logits(decoder, ids), logits(one, ids)
    assert divergence(logits(one, ids, 1), at_once) < 0.1 * divergence(at_once, exact)
    assert one.new_cache().bytes_per_token < decoder.new_cache().bytes_per_token / 3


def test_perplexity_is_that_of_the_cache(decoder):
    """Scored window by window and token by token; a float cache would give the float's."""
    windows = some_ids(3, 40)
    one = decoder.with_cache(plan_of("tensor", decoder.shape, 4))
    found = score_windows(one, windows)
    surprise = -logits(one, windows, 1)[:, :-1].log_softmax(-1).gather(2, windows[:, 1:, None])
    assert found.perplexity == pytest.approx(surprise.mean().exp().item(), rel=1e-4)
    assert found.perplexity != pytest.approx(score_windows(decoder, windows).perplexity, rel=1e-4)


def test_a_16_bit_cache_rounds_to_16_bits(decoder):
    one = decoder.with_cache(CachePlan(dtype=torch.bfloat16))
    assert one.new_cache().bytes_per_token * 2 == decoder.new_cache().bytes_per_token
    exact = logits(decoder, some_ids())
    assert 0 < divergence(logits(one, some_ids()), exact) < 1e-3


def test_caches_side_by_side(decoder, tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    plans = cache_plans(open_folder(tmp_path))
    found = measure_caches(decoder, plans, some_ids(3, 50), None, memory=10**6)
    names = [figures.cache for figures in found]
    assert names == ["float16", "int8, scaled per token", "int4, scaled per token"]
    sixteen, int8, int4 = found
    shape = decoder.shape
    assert sixteen.bytes_per_token == 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim
    assert sixteen.share == 1
    assert sixteen.share > int8.share > int4.share
    assert sixteen.longest_context == 10**6 // sixteen.bytes_per_token
    assert int4.longest_context == 10**6 // int4.bytes_per_token
    assert sixteen.kl_divergence < int8.kl_divergence < int4.kl_divergence
    assert int8.perplexity == pytest.approx(sixteen.perplexity, rel=0.01)


class TestPlan:
    def test_a_folder_has_floats_unless_told(self, tmp_path):
        save_tiny("llama", tmp_path, tokenizer=False)
        source = open_folder(tmp_path)
        assert plan_cache(source, None) == CachePlan()
        assert plan_cache(source, 0) == CachePlan()
        assert plan_cache(source, 4).scales == CacheScales(CacheSpec(4), None, None)

    def test_int8_in_narrow_heads_has_no_zero_points(self):
        assert online_plan(8, 64).scales.spec.symmetric
        assert not online_plan(8, 128).scales.spec.symmetric
        assert not online_plan(4, 64).scales.spec.symmetric

    def test_an_odd_head_size_is_refused_before_the_weights(self, tmp_path):
        save_tiny("phi3", tmp_path, tokenizer=False, head_dim=17, partial_rotary_factor=0.5)
        with pytest.raises(InputError, match="even head size, the model has 17"):
            load_decoder(open_folder(tmp_path), EngineConfig("cpu", quant_policy=8))
        assert [plan.scales for plan in cache_plans(open_folder(tmp_path))] == [None]

    def test_other_policies_are_refused(self):
        assert [quant_policy_of(value) for value in (None, 0, 4, 8)] == [None, 0, 4, 8]
        with pytest.raises(ConfigError, match="--quant-policy 16"):
            quant_policy_of(16)
