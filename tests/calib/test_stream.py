import json

import pytest
import torch

from mindpress.calib.stream import BlockStream
from mindpress.errors import InputError, NumericError
from mindpress.sources.folder import open_folder
from tests.tiny_models import FAMILIES, edit_config, save_tiny, tiny_model

CPU = torch.device("cpu")


def streamed(stream, tokens):
    hidden = torch.empty(*tokens.shape, stream.source.shape.hidden)
    stream.embed(tokens, hidden)
    for index in range(len(stream)):
        with stream.block(index) as block:
            hidden = block.run(hidden)
    return hidden


@pytest.mark.parametrize("family", FAMILIES)
def test_a_streamed_forward_equals_the_whole_one_bit_for_bit(family, tmp_path):
    folder = save_tiny(family, tmp_path / family, dtype=torch.float32)
    tokens = torch.randint(0, 4096, (2, 40), generator=torch.Generator().manual_seed(0))
    hidden = streamed(BlockStream(open_folder(folder), CPU, torch.float32), tokens)
    decoder = tiny_model(family, dtype=torch.float32).get_decoder()
    with torch.no_grad():
        expected = decoder(tokens, use_cache=False).last_hidden_state
        assert torch.equal(decoder.norm(hidden), expected)


def test_only_one_block_is_in_memory(tmp_path):
    stream = BlockStream(open_folder(save_tiny("llama", tmp_path / "m")), CPU, torch.float32)
    with stream.block(0) as first:
        assert not any(p.is_meta for p in first.module.parameters())
    with stream.block(1):
        assert all(p.is_meta for p in first.module.parameters())


def test_a_weight_that_is_not_a_number_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny("llama", tmp_path / "m")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    stream = BlockStream(open_folder(folder), CPU, torch.float32)
    with pytest.raises(NumericError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        stream.block(1).__enter__()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention_dropout": {}}, "transformers refuses it.*attention_dropout"),
        ({"pad_token_id": 10**6}, "transformers refuses it"),
        ({"model_type": "mistral"}, "is that of MistralForCausalLM, `architectures` names Llama"),
        ({"model_type": "unheard"}, "transformers refuses it"),
    ],
)
def test_a_config_that_transformers_reads_otherwise_is_refused(tmp_path, changes, named):
    folder = save_tiny("llama", tmp_path / "m")
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=named):
        BlockStream(open_folder(folder), CPU, torch.float32)


def test_a_config_that_transformers_runs_into_is_refused_with_its_name(tmp_path):
    """A layer that slides, and no window: found by `tests.stress.mutate` (70707)."""
    folder = save_tiny("gemma2", tmp_path / "m", num_hidden_layers=2)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sliding_window": None}))
    stream = BlockStream(open_folder(folder), CPU, torch.float32)
    with stream.block(0) as block, pytest.raises(InputError, match="transformers refuses it"):
        block.run(torch.zeros(1, 4, stream.source.shape.hidden))
