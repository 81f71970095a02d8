"""The compiled step against the same blocks computed one operation after the other."""

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.engine.cache_plan import PagePlace, online_plan
from mindpress.engine.config import EngineConfig
from mindpress.engine.fused import FusedBlocks, fused_blocks
from mindpress.engine.loader import load_decoder
from mindpress.engine.paged import PagedMixing, Places
from mindpress.engine.rotary import Span
from mindpress.errors import InputError
from mindpress.formats.cache_pages import slots_of
from mindpress.formats.quantized import QuantSpec
from mindpress.kernels.cache_attention.paged import PagedBatch
from mindpress.kernels.paged import paged_operations
from mindpress.sources.opening import open_source

VARIANTS = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with a head of its own width": ("llama", {"head_dim": 48}),
    "llama partly rotated": ("llama", {"partial_rotary_factor": 0.5}),
    "mistral window": ("mistral", {"sliding_window": 24}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "phi3": ("phi3", {}),
    "gemma2": ("gemma2", {}),
}
LENGTHS = (40, 1, 33)
STEPS = ((20, 1, 0), (19, 0, 32), (1, 0, 1))


def opened(tmp_path, variant, kernels="cpu", cache=None):
    family, overrides = VARIANTS[variant]
    folder = tmp_path / "model"
    save_tiny(family, folder, tokenizer=False, **overrides)
    quantize_folder(folder, QuantSpec(4, 32))
    decoder = load_decoder(open_source(folder), EngineConfig("cpu", kernels=kernels))
    return decoder if cache is None else decoder.with_cache(cache)


def both(decoder):
    """Hidden states of every step: of the compiled call, and of one block after the other."""
    operations = paged_operations(decoder.kernels)
    tokens, place = operations.page_tokens, PagePlace(torch.device("cpu"), by_channel=False)
    own = [decoder.cache_plan.new_pages(decoder.shape, (6, tokens), torch.float32, place)
           for _ in range(2)]  # fmt: skip
    fused = fused_blocks(decoder, own[0])
    assert fused is not None
    table = torch.tensor([[3, 1], [0, 0], [5, 2]], dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 4000, (length,), generator=generator) for length in LENGTHS]
    read = [0, 0, 0]
    for step in STEPS:
        parts = [(index, read[index], count) for index, count in enumerate(step) if count]
        ids = torch.cat([texts[index][begin : begin + count] for index, begin, count in parts])
        places = placed(decoder, table, parts, tokens)
        mixing = PagedMixing(decoder.shape, own[1], operations, places)
        yield fused(decoder.embed(ids), places), decoder.forward(ids, mixing)
        for index, begin, count in parts:
            read[index] = begin + count


def placed(decoder, table, parts, tokens):
    counts = [count for *_, count in parts]
    lengths = torch.tensor([begin + count for _, begin, count in parts])
    spans = [Span(begin, count, 99, 99) for _, begin, count in parts]
    slots = [slots_of(table[index], begin, begin + count, tokens) for index, begin, count in parts]
    starts = torch.tensor([0, *counts]).cumsum(0)
    rows = table[torch.tensor([index for index, *_ in parts])]
    batch = PagedBatch(starts, lengths, rows, max(counts), int(lengths.max()))
    return Places(*decoder.rotary.rows(spans), torch.cat(slots), batch)


def off(x, expected):
    """Relative, of the worst row."""
    return ((x - expected).norm(dim=-1) / expected.norm(dim=-1)).max()


@pytest.mark.parametrize("kernels", ["cpu", "cpu-int8"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_what_its_operations_are(native, variant, kernels, tmp_path):
    # A float32 rounding moves an int8 activation over the edge between two codes now and then.
    tolerance = {"cpu": 1e-5, "cpu-int8": 5e-2}[kernels]
    for fused, plain in both(opened(tmp_path, variant, kernels)):
        assert off(fused, plain) < tolerance


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_pages(native, bits, tmp_path):
    for fused, plain in both(opened(tmp_path, "llama", cache=online_plan(bits, 32))):
        assert off(fused, plain) < 5e-2


def test_threads_change_no_bit(native, tmp_path):
    decoder = opened(tmp_path, "qwen3")
    before = torch.get_num_threads()
    alone = [fused.clone() for fused, _ in both(decoder)]
    try:
        torch.set_num_threads(3)
        for one, (fused, _) in zip(alone, both(decoder), strict=True):
            assert torch.equal(one, fused)
    finally:
        torch.set_num_threads(before)


def test_what_only_torch_computes_is_left_to_it(native, tmp_path):
    folder = tmp_path / "model"
    save_tiny("llama", folder, tokenizer=False)
    decoder = load_decoder(open_source(folder), EngineConfig("cpu", kernels="cpu"))
    assert fused_blocks(decoder, []) is None
    quantize_folder(folder, left="down_proj")
    assert fused_blocks(load_decoder(open_source(folder), EngineConfig("cpu")), []) is None


def test_sizes_that_do_not_fit_are_refused(native, tmp_path):
    decoder = opened(tmp_path, "llama")
    other = opened(tmp_path / "other", "llama with a head of its own width")
    place = PagePlace(torch.device("cpu"), by_channel=False)
    pages = other.cache_plan.new_pages(other.shape, (6, 32), torch.float32, place)
    fused = FusedBlocks(decoder, pages)
    table = torch.zeros(1, 1, dtype=torch.int32)
    places = placed(decoder, table, [(0, 0, 3)], 32)
    with pytest.raises(InputError, match="do not fit"):
        fused(decoder.embed(torch.tensor([5, 6, 7])), places)
