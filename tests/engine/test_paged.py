"""Sequences of different lengths in pages, read in pieces: what each gives alone and at once."""

import pytest
import torch
from tiny_models import FAMILIES, save_tiny

from mindpress.engine.cache_plan import CachePlan, PagePlace, online_plan
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.paged import PagedMixing, Places
from mindpress.engine.rotary import Span
from mindpress.formats.cache_pages import slots_of
from mindpress.kernels.cache_attention.paged import PagedBatch
from mindpress.kernels.dispatch import Kernels
from mindpress.kernels.paged import paged_operations
from mindpress.sources.opening import open_source

REFERENCE = paged_operations(Kernels("reference", "asked for"))
TOKENS = REFERENCE.page_tokens
FLOATS = CachePlan()
LENGTHS = (70, 33, 1)
# Rows of each sequence in each step: long prompts come in pieces beside others that go on.
STEPS = ((40, 0, 1), (29, 20, 0), (0, 12, 0), (1, 1, 0))
KINDS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 512},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


def opened(family, folder, **overrides):
    save_tiny(family, folder, **overrides)
    return load_decoder(open_source(folder), EngineConfig(kernels="reference"))


def in_pages(decoder, texts, plan):
    """The last hidden state of every text, read as STEPS says, from poisoned pages."""
    place = PagePlace(torch.device("cpu"), by_channel=False)
    pages = plan.new_pages(decoder.shape, (9, TOKENS), torch.float32, place)
    for layer in pages:
        for one in (layer.keys, layer.values):
            one.data.fill_(float("nan") if one.data.is_floating_point() else 0xA5)
    table = torch.randperm(9, generator=torch.Generator().manual_seed(3)).view(3, 3).int()
    read, last = [0, 0, 0], {}
    for step in STEPS:
        parts = [(index, read[index], count) for index, count in enumerate(step) if count]
        ids = torch.cat([texts[index][begin : begin + count] for index, begin, count in parts])
        hidden = decoder.forward(ids, mixing(decoder, pages, table, parts, texts))
        ends = torch.tensor([count for *_, count in parts]).cumsum(0) - 1
        for (index, begin, count), row in zip(parts, ends, strict=True):
            read[index] = begin + count
            last[index] = hidden[row]
    assert read == list(LENGTHS)
    return [last[index] for index in range(3)]


def mixing(decoder, pages, table, parts, texts):
    rows = torch.tensor([index for index, *_ in parts])
    counts = [count for *_, count in parts]
    lengths = torch.tensor([begin + count for _, begin, count in parts])
    spans = [
        Span(begin, count, len(texts[index]), len(texts[index])) for index, begin, count in parts
    ]
    slots = [slots_of(table[index], begin, begin + count, TOKENS) for index, begin, count in parts]
    starts = torch.tensor([0, *counts]).cumsum(0)
    batch = PagedBatch(starts, lengths, table[rows], max(counts), int(lengths.max()))
    places = Places(*decoder.rotary.rows(spans), torch.cat(slots), batch)
    return PagedMixing(decoder.shape, pages, REFERENCE, places)


def compare(decoder, plan=FLOATS, tolerance=2e-5):
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 4000, (length,), generator=generator) for length in LENGTHS]
    got = in_pages(decoder, texts, plan)
    for text, last in zip(texts, got, strict=True):
        cached = decoder.with_cache(plan)
        expected = cached.hidden(text.unsqueeze(0), cached.new_cache())[0, -1]
        torch.testing.assert_close(last, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tmp_path):
    compare(opened(family, tmp_path / "model"))


@pytest.mark.parametrize("window", [1, 24])
def test_sliding_windows(window, tmp_path):
    compare(opened("mistral", tmp_path / "model", sliding_window=window))


@pytest.mark.parametrize("kind", KINDS)
def test_rotary_scaling(kind, tmp_path):
    rope = {"rope_theta": 5000.0, **KINDS[kind]}
    compare(opened("llama", tmp_path / "model", rope_parameters=rope))


def test_dynamic_scaling_past_the_trained_length(tmp_path):
    """Angles depend on how long each text is; the others in the step are other texts."""
    rope = {"rope_theta": 5000.0, "rope_type": "dynamic", "factor": 4.0}
    rope["original_max_position_embeddings"] = 32
    folder = tmp_path / "model"
    compare(opened("llama", folder, rope_parameters=rope, max_position_embeddings=32))


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_pages(bits, tmp_path):
    decoder = opened("llama", tmp_path / "model")
    # Another order of sums moves a number over the edge between two codes now and then.
    compare(decoder, online_plan(bits, decoder.shape.head_dim), tolerance={8: 2e-3, 4: 3e-2}[bits])
