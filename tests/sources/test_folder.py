"""Folders of every family give the tensors of the real model, and damaged ones are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, edit_config, save_tiny, tiny_model

from mindpress.errors import InputError, MindpressError, UnsupportedModelError
from mindpress.formats import awq
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.sources.folder import open_folder

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "hf"
SMALL = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "tokenizer": False}
ROLES = {"query", "key", "value", "output", "gate", "up", "down"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "model", **SMALL)


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors of the only shard; None deletes one. Dots of names are written as __."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, file, metadata={"format": "pt"})


def refusal(folder: Path) -> MindpressError:
    with pytest.raises(InputError) as caught:
        open_folder(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    return caught.value


def real_linears(family: str, block: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Linears of the real block by role; fused ones are split as the real code splits them."""
    if family == "phi3":
        attention, mlp = block.self_attn, block.mlp
        query, key, value = attention.qkv_proj.weight.split([128, 64, 64])
        gate, up = mlp.gate_up_proj.weight.chunk(2)
        return {"query": query, "key": key, "value": value, "output": attention.o_proj.weight,
                "gate": gate, "up": up, "down": mlp.down_proj.weight}  # fmt: skip
    names = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
             "output": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
             "down": "mlp.down_proj"}  # fmt: skip
    return {role: block.get_submodule(name).weight for role, name in names.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_are_those_of_the_real_model(family, tmp_path):
    source = open_folder(save_tiny(family, tmp_path / "model", tokenizer=False, vocab_size=64))
    model = tiny_model(family, vocab_size=64)
    for layer, block in enumerate(model.model.layers):
        linears = source.linears(layer)
        assert set(linears) == ROLES
        for role, weight in real_linears(family, block).items():
            assert torch.equal(linears[role].weight, weight), role
        for field, tensor in source.norms(layer).items():
            assert torch.equal(tensor, real_norm(block, field)), field
    assert torch.equal(source.embedding(), model.model.embed_tokens.weight)
    assert torch.equal(source.final_norm(), model.model.norm.weight)
    assert torch.equal(source.head(), model.lm_head.weight)


def real_norm(block: torch.nn.Module, field: str) -> torch.Tensor:
    names = {"attention_norm": "input_layernorm", "query_norm": "self_attn.q_norm",
             "key_norm": "self_attn.k_norm", "mlp_norm": "post_attention_layernorm",
             "attention_output_norm": "post_attention_layernorm",
             "mlp_output_norm": "post_feedforward_layernorm"}  # fmt: skip
    if field == "mlp_norm" and hasattr(block, "pre_feedforward_layernorm"):
        return block.pre_feedforward_layernorm.weight
    return block.get_submodule(names[field]).weight


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("internlm2", {"attention_bias": True}),
        ("internlm3", {"attention_bias": True, "mlp_bias": True}),
        ("gemma2", {"attention_bias": True}),
    ],
)
def test_biases_go_with_their_roles(family, changes, tmp_path):
    saved = save_tiny(family, tmp_path / "model", tokenizer=False, vocab_size=64, **changes)
    linears = open_folder(saved).linears(1)
    block = tiny_model(family, vocab_size=64, **changes).model.layers[1]
    attention = block.self_attn
    assert torch.equal(linears["query"].bias, attention.q_proj.bias)
    assert torch.equal(linears["key"].bias, attention.k_proj.bias)
    assert torch.equal(linears["value"].bias, attention.v_proj.bias)
    assert (linears["output"].bias is None) == (attention.o_proj.bias is None)
    assert (linears["down"].bias is None) == (getattr(block.mlp.down_proj, "bias", None) is None)


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_tied_heads(family, tmp_path):
    saved = save_tiny(family, tmp_path / "a", **SMALL, tie_word_embeddings=True)
    source = open_folder(saved)
    assert source.shape.tied
    assert torch.equal(source.head(), source.embedding())


def test_a_copy_of_a_tied_head_may_be_there(tmp_path):
    saved = save_tiny("llama", tmp_path / "a", **SMALL, tie_word_embeddings=True)
    change_tensors(saved, lm_head__weight=torch.zeros(64, 64, dtype=torch.float16))
    source = open_folder(saved)
    assert torch.equal(source.head(), source.embedding())


def test_shards(tmp_path):
    saved = save_tiny("llama", tmp_path / "a", max_shard_size="100KB", **SMALL)
    assert len(list(saved.glob("*.safetensors"))) > 1
    assert set(open_folder(saved).linears(1)) == ROLES


def test_buffers_of_old_exporters_are_ignored(folder):
    change_tensors(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8))
    open_folder(folder)


class TestDamage:
    def test_a_missing_tensor(self, folder):
        change_tensors(folder, model__layers__1__mlp__up_proj__weight=None)
        assert "missing (1): model.layers.1.mlp.up_proj.weight" in str(refusal(folder))

    def test_more_layers_in_the_config(self, folder):
        edit_config(folder, num_hidden_layers=3)
        error = refusal(folder)
        assert "tensors are missing (9): model.layers.2." in str(error)
        assert "config.json" in str(error.hint)

    def test_ten_thousand_layers_in_the_config(self, folder):
        edit_config(folder, num_hidden_layers=10_000)
        assert "`num_hidden_layers` is 10000" in str(refusal(folder))

    def test_fewer_layers_in_the_config(self, folder):
        edit_config(folder, num_hidden_layers=1)
        assert "do not belong to the model" in str(refusal(folder))

    @pytest.mark.parametrize("tensor", [torch.ones(64, 63), torch.ones(64 * 64), torch.ones(())])
    def test_another_shape(self, folder, tensor):
        change_tensors(folder, model__layers__0__self_attn__o_proj__weight=tensor.half())
        assert "`model.layers.0.self_attn.o_proj.weight` is [" in str(refusal(folder))

    def test_another_type(self, folder):
        change_tensors(folder, model__norm__weight=torch.ones(64, dtype=torch.int32))
        assert "`model.norm.weight` is torch.int32" in str(refusal(folder))

    def test_absurd_heads(self, folder):
        edit_config(folder, num_attention_heads=2**24, num_key_value_heads=2**24, head_dim=2**24)
        assert "expected [" in str(refusal(folder))

    def test_nan_in_the_config(self, folder):
        edit_config(folder, rms_norm_eps=float("nan"))
        assert "NaN" in (folder / "config.json").read_text()
        assert "NaN is no number of JSON" in str(refusal(folder))

    def test_an_unknown_family_names_the_closest(self, folder):
        edit_config(folder, architectures=["LLaMAForCausalLM"])
        with pytest.raises(UnsupportedModelError, match="LLaMAForCausalLM") as caught:
            open_folder(folder)
        assert "LlamaForCausalLM" in str(caught.value.hint)

    def test_no_config(self, folder):
        (folder / "config.json").unlink()
        assert "config.json: no such file" in str(refusal(folder))

    def test_a_pickle(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        assert "`pytorch_model.bin` is a pickle" in str(refusal(folder))


class TestQuantized:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return Path(shutil.copytree(GOLDEN / "mha-awq", tmp_path / "model"))

    def test_weights_are_codes_and_norms_are_floats(self, folder):
        source = open_folder(folder)
        assert source.spec == QuantSpec(4, 128)
        for linear in source.linears(0).values():
            assert isinstance(linear.weight, QuantizedWeight)
        assert source.norms(0)["attention_norm"].dtype == torch.float16

    def test_a_linear_may_have_stayed_in_16_bits(self, folder):
        name = "model.layers.0.mlp.down_proj"
        size = open_folder(folder).linears(0)["down"].weight.codes.shape
        gone = {f"{name}.{part}".replace(".", "__"): None for part in awq.SUFFIXES}
        weight = torch.ones(size, dtype=torch.float16)
        change_tensors(folder, **gone, model__layers__0__mlp__down_proj__weight=weight)
        linears = open_folder(folder).linears(0)
        assert torch.equal(linears["down"].weight, weight)
        assert isinstance(linears["up"].weight, QuantizedWeight)

    @pytest.mark.parametrize("family", ["phi3", "internlm2"])
    def test_fused_ones_are_taken_apart(self, family, tmp_path):
        """As codes they give the same roles as their dequantized weight does."""
        saved = save_tiny(family, tmp_path / family, tokenizer=False, vocab_size=64)
        spec, coded, whole = QuantSpec(4, 64), {}, {}
        for name, tensor in load_file(saved / "model.safetensors").items():
            if tensor.dim() == 1 or ".layers." not in name:
                coded[name] = whole[name] = tensor
                continue
            groups = (tensor.shape[0], tensor.shape[1] // 64)
            weight = QuantizedWeight(
                codes=torch.randint(0, 16, tuple(tensor.shape), dtype=torch.uint8),
                scales=torch.rand(groups).half(),
                zeros=torch.randint(0, 16, groups, dtype=torch.uint8),
                spec=spec,
            )
            stem = name.removesuffix("weight")
            coded |= {stem + part: packed for part, packed in awq.pack(weight).items()}
            whole[name] = weight.dequantize()
        save_file(whole, saved / "model.safetensors")
        expected = open_folder(saved).linears(1)
        save_file(coded, saved / "model.safetensors")
        edit_config(saved, quantization_config=awq.quantization_config(spec, ()))
        for role, linear in open_folder(saved).linears(1).items():
            assert torch.equal(linear.weight.dequantize(), expected[role].weight), role

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"quant_method": "gptq"}, "qweight` is [256, 32], expected [32, 256]"),
            ({"quant_method": "fp8"}, "method `fp8` cannot be read"),
            ({"quant_method": ["awq"]}, "method `['awq']` cannot be read"),
            ({"version": "gemv"}, "version `gemv`"),
            ({"bits": 8}, "expected ["),
            ({"group_size": 64}, "qzeros` is ["),
            ({"group_size": 100}, "groups of 100 do not divide"),
            ({"group_size": 0}, "group_size is 0"),
        ],
    )
    def test_a_config_that_does_not_fit(self, folder, changes, message):
        config = json.loads((folder / "config.json").read_text())["quantization_config"]
        edit_config(folder, quantization_config={**config, **changes})
        assert message in str(refusal(folder))

    def test_no_config(self, folder):
        edit_config(folder, quantization_config=None)
        assert "tensors are missing (7): model.layers.0" in str(refusal(folder))

    def test_a_part_is_missing(self, folder):
        change_tensors(folder, model__layers__0__mlp__up_proj__qzeros=None)
        assert "missing (1): model.layers.0.mlp.up_proj.qzeros" in str(refusal(folder))

    def test_a_part_of_another_module(self, folder):
        change_tensors(folder, lm_head__qweight=torch.ones(4, 4, dtype=torch.int32))
        assert "config.json describes (1): lm_head.qweight" in str(refusal(folder))

    @pytest.mark.parametrize(
        ("part", "dtype"),
        [("qweight", torch.int64), ("qzeros", torch.half), ("scales", torch.int8)],
    )
    def test_a_part_of_another_type(self, folder, part, dtype):
        name = f"model.layers.0.mlp.up_proj.{part}"
        tensor = load_file(folder / "model.safetensors")[name]
        change_tensors(folder, **{name.replace(".", "__"): tensor.to(dtype)})
        assert f"`{name}` is {dtype}, expected" in str(refusal(folder))
