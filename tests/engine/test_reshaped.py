import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.engine.config import EngineConfig
from mindpress.engine.context import context_length
from mindpress.engine.loader import Share, load_decoder
from mindpress.errors import ConfigError
from mindpress.formats.quantized import QuantSpec
from mindpress.sources.opening import open_source

FAMILIES = ("llama", "qwen2", "qwen3", "internlm2", "gemma2")


def opened(folder, **settings):
    return load_decoder(open_source(folder), EngineConfig("cpu", **settings))


def parts_of(folder, count):
    shares = [Share(rank, count, lambda x: x) for rank in range(count)]
    return [load_decoder(open_source(folder), EngineConfig("cpu"), share=one) for one in shares]


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_linears_of_all_ranks_make_the_whole(family, quantized, tmp_path):
    folder = tmp_path / "model"
    biases = {"attention_bias": True, "mlp_bias": True} if family == "llama" else {}
    save_tiny(family, folder, tokenizer=False, **biases)
    if quantized and family != "internlm2":
        quantize_folder(folder, QuantSpec(4, 32))
    whole, parts = opened(folder), parts_of(folder, 2)
    generator = torch.Generator().manual_seed(0)
    for index, layer in enumerate(whole.layers):
        x = torch.randn(3, whole.shape.hidden, generator=generator)
        own = [part.layers[index] for part in parts]
        head, kv = whole.shape.heads * whole.shape.head_dim, whole.shape.kv_heads
        sizes = [head, kv * whole.shape.head_dim, kv * whole.shape.head_dim]
        fused = [one.query_key_value(x).split([size // 2 for size in sizes], -1) for one in own]
        joined = torch.cat([torch.cat(pair, -1) for pair in zip(*fused, strict=True)], -1)
        torch.testing.assert_close(joined, layer.query_key_value(x))
        for name in ("attention_output", "down"):
            columns = head if name == "attention_output" else whole.shape.inner
            x = torch.randn(3, columns, generator=generator)
            halves = x.chunk(2, -1)
            added = sum(getattr(one, name)(half) for one, half in zip(own, halves, strict=True))
            torch.testing.assert_close(added, getattr(layer, name)(x), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_shared_out_evenly_is_refused(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    with pytest.raises(ConfigError, match=r"tp 4: 2 kv heads"):
        load_decoder(open_source(tmp_path), EngineConfig("cpu"), share=Share(0, 4, lambda x: x))
    quantize_folder(tmp_path, QuantSpec(4, 128))
    with pytest.raises(ConfigError, match=r"tp 2: 1 groups of `output`"):
        load_decoder(open_source(tmp_path), EngineConfig("cpu"), share=Share(0, 2, lambda x: x))


def test_the_context_is_lengthened(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    save_tiny("llama", tmp_path / "own", tokenizer=False, rope_parameters=rope)
    ours = opened(tmp_path, rope_scaling_factor=4.0)
    own = opened(tmp_path / "own")
    assert context_length(ours.shape) == 4 * context_length(opened(tmp_path).shape) == 2048
    long = torch.randint(3, 4000, (1, 600), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.hidden(long), own.hidden(long))
    assert not torch.allclose(ours.hidden(long), opened(tmp_path).hidden(long), atol=1e-3)
    with pytest.raises(ConfigError, match="dynamic scaling of its own"):
        opened(tmp_path / "own", rope_scaling_factor=2.0)


def test_another_format_than_asked_for_is_refused(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    assert opened(tmp_path, model_format="hf")
    with pytest.raises(ConfigError, match="the model is in the format hf"):
        opened(tmp_path, model_format="awq")
    quantize_folder(tmp_path)
    assert opened(tmp_path, model_format="awq")
