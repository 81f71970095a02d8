import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import edit_config, save_tiny

from mindpress.engine import loader
from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import choose_dtype, load_decoder
from mindpress.errors import ConfigError, InputError, NumericError, ResourceError
from mindpress.events import Advanced, Started
from mindpress.sources.folder import open_folder

CPU = EngineConfig("cpu")


def test_sixteen_bit_folders_are_computed_in_float32_on_the_cpu(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    assert load_decoder(open_folder(tmp_path), CPU).dtype == torch.float32
    assert load_decoder(open_folder(tmp_path), EngineConfig("cpu", "float16")).dtype == (
        torch.float16
    )


def test_on_cuda_the_checkpoints_dtype_is_kept():
    device = torch.device("cuda")
    assert choose_dtype("auto", "bfloat16", device) == torch.bfloat16
    assert choose_dtype("float16", "bfloat16", device) == torch.float16
    with pytest.raises(ConfigError, match="float8"):
        choose_dtype("auto", "float8_e4m3fn", device)


def test_cuda_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_tiny("llama", tmp_path, tokenizer=False)
    with pytest.raises(ConfigError, match="--device cuda"):
        load_decoder(open_folder(tmp_path), EngineConfig("cuda"))


def test_loading_tells_how_far_it_is(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    events = []
    load_decoder(open_folder(tmp_path), CPU, events.append)
    assert events[0] == Started("load", 2)
    assert [event.done for event in events if isinstance(event, Advanced)] == [1, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.layers.1.self_attn.k_proj.weight", "layer 1: query, key, value weights"),
        ("model.layers.0.mlp.down_proj.bias", "layer 0: down biases"),
        ("model.layers.0.input_layernorm.weight", "layer 0: attention_norm"),
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "final norm"),
    ],
)
@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, words, value):
    save_tiny("llama", tmp_path, tokenizer=False, mlp_bias=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[3] = float(value)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(NumericError, match=words):
        load_decoder(open_folder(tmp_path), CPU)


def test_weights_too_large_for_the_dtype_are_refused(tmp_path):
    save_tiny("llama", tmp_path, dtype=torch.float32, tokenizer=False)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"][0, 0] = 1e6
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(NumericError, match="float16") as caught:
        load_decoder(open_folder(tmp_path), EngineConfig("cpu", "float16"))
    assert "--dtype bfloat16" in str(caught.value.hint)


def test_a_model_larger_than_the_free_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    save_tiny("llama", tmp_path, tokenizer=False)
    monkeypatch.setattr(loader, "available_bytes", lambda: 2**20)
    with pytest.raises(ResourceError, match="GiB of memory are free") as caught:
        load_decoder(open_folder(tmp_path), CPU)
    assert "--dtype bfloat16" in str(caught.value.hint)


def test_an_unknown_activation_is_named(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False)
    edit_config(tmp_path, hidden_act="relu6")
    with pytest.raises(InputError, match="relu6"):
        load_decoder(open_folder(tmp_path), CPU)


def test_memory_of_the_weights_is_counted(tmp_path):
    save_tiny("llama", tmp_path, tokenizer=False, tie_word_embeddings=True)
    source = open_folder(tmp_path)
    norms = (2 * 2 + 1) * 128 * 2
    wide = load_decoder(source, EngineConfig("cpu", kernels="reference")).nbytes
    assert wide == 2 * (source.checkpoint.nbytes - norms)
    if load_decoder(source, CPU).kernels.name == "cpu":  # the tied embedding stays in 16 bits
        assert load_decoder(source, CPU).nbytes == wide - 4096 * 128 * 2
