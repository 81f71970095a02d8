"""Logits against the real transformers classes, in float32."""

import pytest
import torch
from tiny_models import FAMILIES, save_tiny, tiny_model

from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.sources.folder import open_folder

LENGTH = 60
PLAIN = {family: (family, {}) for family in FAMILIES}
# Windows are shorter than the text, biases exist, heads are tied and untied.
VARIANTS = PLAIN | {
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with a head of its own width": ("llama", {"head_dim": 48}),
    "llama one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama no groups": ("llama", {"num_key_value_heads": 4}),
    "mistral window": ("mistral", {"sliding_window": 24}),
    "qwen2 window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "internlm3 with biases": ("internlm3", {"attention_bias": True, "mlp_bias": True}),
    "phi3 window": ("phi3", {"sliding_window": 24}),
    "gemma2 without caps": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma2 untied": ("gemma2", {"tie_word_embeddings": False}),
}


def rope(kind, **parameters):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **parameters}}


FACTORS = {
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0],
}
LONGROPE = {
    **rope("longrope", partial_rotary_factor=0.5, **FACTORS),
    "original_max_position_embeddings": 32,
}
ROPES = {
    "theta": ("llama", rope("default")),
    "linear": ("llama", rope("linear", factor=3.0)),
    "dynamic, short": ("llama", rope("dynamic", factor=2.0)),
    "dynamic, past the limit": (
        "llama",
        {**rope("dynamic", factor=2.0), "max_position_embeddings": 32},
    ),
    "llama3": (
        "llama",
        rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "yarn": ("qwen2", rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "partial": ("phi3", rope("default", partial_rotary_factor=0.5)),
    "longrope, short": ("phi3", {**LONGROPE, "original_max_position_embeddings": 64}),
    "longrope, long": ("phi3", LONGROPE),
}


def some_ids(batch=1, length=LENGTH):
    return torch.randint(0, 4096, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def expected_logits(family, ids, overrides):
    return tiny_model(family, dtype=torch.float32, **overrides)(ids).logits


def open_tiny(family, folder, **overrides):
    save_tiny(family, folder, dtype=torch.float32, tokenizer=False, **overrides)
    return load_decoder(open_folder(folder), EngineConfig(device="cpu"))


def assert_equal_logits(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS | ROPES)
def test_logits_are_those_of_transformers(variant, tmp_path):
    family, overrides = (VARIANTS | ROPES)[variant]
    decoder, ids = open_tiny(family, tmp_path, **overrides), some_ids(batch=2)
    assert_equal_logits(
        decoder.logits(decoder.hidden(ids)), expected_logits(family, ids, overrides)
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_reading_through_the_cache_changes_nothing(variant, tmp_path):
    """In pieces longer and shorter than the window, then token by token, two texts at once."""
    family, overrides = VARIANTS[variant]
    decoder, ids = open_tiny(family, tmp_path, **overrides), some_ids(batch=2)
    cache = decoder.new_cache(batch=2)
    pieces = [
        decoder.logits(decoder.hidden(piece, cache)) for piece in ids.split([7, 33, *[1] * 20], 1)
    ]
    assert_equal_logits(torch.cat(pieces, 1), decoder.logits(decoder.hidden(ids)))


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
@pytest.mark.parametrize("read", [590, 500], ids=["more than a piece", "then past a chunk"])
def test_a_text_longer_than_a_chunk_of_the_cache(family, read, tmp_path):
    overrides = {"sliding_window": 100, "max_position_embeddings": 1024}
    decoder, ids = open_tiny(family, tmp_path, **overrides), some_ids(length=600)
    cache, pieces = decoder.new_cache(), ids.split([read, 595 - read, *[1] * 5], 1)
    logits = [decoder.logits(decoder.hidden(piece, cache)[0, -1]) for piece in pieces]
    assert_equal_logits(torch.stack(logits[2:]), expected_logits(family, ids, overrides)[0, 595:])


@pytest.mark.parametrize("variant", ["dynamic, past the limit", "longrope, long"])
def test_a_prompt_read_in_pieces_is_rotated_as_the_whole(variant, tmp_path):
    family, overrides = ROPES[variant]
    decoder, ids = open_tiny(family, tmp_path, **overrides), some_ids()
    cache = decoder.new_cache()
    for piece in ids.split(16, 1):
        hidden = decoder.hidden(piece, cache, horizon=ids.shape[1])
    expected = expected_logits(family, ids, overrides)[0, -1]
    assert_equal_logits(decoder.logits(hidden[0, -1]), expected)


def test_sixteen_bits_round_and_do_no_more(tmp_path):
    save_tiny("gemma2", tmp_path, dtype=torch.bfloat16, tokenizer=False)
    decoder = load_decoder(open_folder(tmp_path), EngineConfig("cpu", "bfloat16"))
    ids = some_ids()
    logits = decoder.logits(decoder.hidden(ids))
    expected = expected_logits("gemma2", ids, {})
    assert decoder.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert (logits - expected).norm() / expected.norm() < 0.05
