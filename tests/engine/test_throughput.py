import torch
from tiny_models import save_tiny

from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.engine.throughput import measure
from mindpress.sources.folder import open_folder


def test_reading_and_writing_have_a_speed(tmp_path):
    save_tiny("llama", tmp_path, dtype=torch.float32, tokenizer=False)
    decoder = load_decoder(open_folder(tmp_path), EngineConfig("cpu"))
    speed = measure(decoder, prompt=128, new=8)
    assert (speed.prompt, speed.new) == (128, 8)
    assert speed.prefill > 0
    assert speed.decode > 0


def test_it_keeps_within_a_short_context(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False, max_position_embeddings=20)
    speed = measure(load_decoder(open_folder(tmp_path), EngineConfig("cpu")))
    assert (speed.prompt, speed.new) == (10, 10)
