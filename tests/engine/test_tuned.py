"""Tiles are looked up for the weights of a model, in the interpreter; the clock is made up."""

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.tuned import use_tuned
from mindpress.events import Note, Started
from mindpress.formats.quantized import QuantSpec
from mindpress.kernels.matmul_w4a16 import gpu_product
from mindpress.kernels.tuning.products import BUCKETS
from mindpress.sources.opening import open_source

SIZES = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 64,
         "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 64}  # fmt: skip


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_tiny("llama", tmp_path / "model", tokenizer=False, **SIZES)
    quantize_folder(tmp_path / "model", QuantSpec(4, 64))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = EngineConfig(device, "float16", kernels="triton")
    return load_decoder(open_source(tmp_path / "model"), config)


def last_is_fastest(key, config, seen={}):  # noqa: B006
    """Every candidate of a key seems faster than the one before it."""
    seen[key] = seen.get(key, 100.0) - 1.0
    return seen[key]


def test_products_take_the_tiles_that_were_fastest(decoder, monkeypatch):
    events, used = [], []
    use_tuned(decoder, events.append, last_is_fastest)
    assert isinstance(events[0], Started)
    assert events[0].total == 2 * len(BUCKETS)  # 256 outputs, thrice 128 of 128 inputs
    product = decoder.layers[0].gate_up.weight
    assert set(product.tiles.configs) == set(BUCKETS)

    def product_of(x, weight, config, room):
        used.append((len(x), config))
        return x

    monkeypatch.setattr(gpu_product, "matmul_triton", product_of)
    for rows in (1, 3, 300):
        product(torch.zeros(rows, 128, dtype=torch.float16))
    assert used == [(1, product.tiles.configs[1]), (3, product.tiles.configs[4]), (300, None)]


def test_products_share_room_for_every_tile_they_were_given(decoder):
    use_tuned(decoder, clock=last_is_fastest)
    products = [linear.weight for linear in decoder.linears]
    assert len({id(product.tiles.room) for product in products}) == 1
    for product in products:
        for rows in (1, 64):
            product(torch.zeros(rows, 128, dtype=torch.float16, device=decoder.device))
    assert int(products[0].tiles.room.arrived.sum()) == 0


def test_what_is_known_is_not_timed_again(decoder):
    use_tuned(decoder, clock=last_is_fastest)
    first = dict(decoder.layers[0].down.weight.tiles.configs)
    decoder.layers[0].down.weight.tiles.configs.clear()

    def never(key, config):
        raise AssertionError("timed twice")

    events = []
    use_tuned(decoder, events.append, never)
    assert decoder.layers[0].down.weight.tiles.configs == first
    assert events == []


def test_a_folder_that_cannot_be_written_is_said(decoder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    events = []
    use_tuned(decoder, events.append, last_is_fastest)
    assert any(isinstance(event, Note) and "not kept" in event.text for event in events)
