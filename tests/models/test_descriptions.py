"""Each description is held against the real Hugging Face class, built without weights."""

import pytest
import torch
from tiny_models import INTERNLM2_NAMES, OWN, SIZES
from transformers import AutoConfig, AutoModelForCausalLM

from mindpress.errors import UnsupportedModelError
from mindpress.models.description import Architecture
from mindpress.models.registry import ARCHITECTURES, describe
from mindpress.models.shape import read_shape
from mindpress.models.tensors import all_tensors

NATIVE = [name for name in ARCHITECTURES if name != "InternLM2ForCausalLM"]
# Every combination that some config of the family can ask for and that adds or drops tensors.
VARIANTS = {
    "LlamaForCausalLM": [{}, {"attention_bias": True}, {"mlp_bias": True}],
    "MistralForCausalLM": [{}, {"head_dim": 48}],
    "Qwen2ForCausalLM": [{}],
    "Qwen3ForCausalLM": [{}, {"attention_bias": True}, {"head_dim": 48}],
    "InternLM3ForCausalLM": [{}, {"attention_bias": True, "mlp_bias": True}],
    "Phi3ForCausalLM": [{}],
    "Gemma2ForCausalLM": [{}, {"attention_bias": True}],
}
CASES = [
    pytest.param(name, {**variant, "tie_word_embeddings": tied}, id=f"{name}-{variant}-tied={tied}")
    for name, variants in VARIANTS.items()
    for variant in variants
    for tied in (False, True)
]


def build(architecture: Architecture, **changes):
    """The real class on the meta device, and its config."""
    sizes = {**SIZES, **OWN[architecture.model_type], **changes}
    config = AutoConfig.for_model(architecture.model_type, **sizes)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config), config


def hub_spelling(architecture: Architecture, config) -> dict:
    """config.json as the Hub has it: InternLM3 spells its biases in its own way."""
    spelled = {**config.to_dict(), "architectures": [architecture.hf_class]}
    if architecture.model_type == "internlm3":
        spelled["qkv_bias"], spelled["bias"] = config.attention_bias, config.mlp_bias
    return spelled


def test_every_family_is_tried():
    assert set(VARIANTS) == set(NATIVE)


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_the_tensors_are_those_of_the_real_class(name, changes):
    architecture = ARCHITECTURES[name]
    model, config = build(architecture, **changes)
    shape = read_shape(hub_spelling(architecture, config), architecture)
    real = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if shape.tied:
        del real[f"{architecture.head}.weight"]
    assert all_tensors(architecture, shape) == real


@pytest.mark.parametrize("name", NATIVE)
def test_every_linear_and_norm_of_a_block_is_listed(name):
    architecture = ARCHITECTURES[name]
    model, _ = build(architecture)
    block = model.get_submodule(architecture.blocks)[0]
    modules = dict(block.named_modules())
    linears = {key for key, module in modules.items() if isinstance(module, torch.nn.Linear)}
    norms = {key for key, module in modules.items() if "RMSNorm" in type(module).__name__}
    assert {linear.name for linear in architecture.block.linears} == linears
    assert set(architecture.block.norms) == norms


@pytest.mark.parametrize("name", NATIVE)
def test_linears_that_share_an_input_read_the_same_tensor(name):
    """The tuples of a block are what smoothing treats as one: run it and compare the inputs."""
    architecture = ARCHITECTURES[name]
    sizes = {**SIZES, **OWN[architecture.model_type], "num_hidden_layers": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture.model_type, **sizes))
    block = model.get_submodule(architecture.blocks)[0]
    seen: dict[str, torch.Tensor] = {}
    for linear in architecture.block.linears:
        block.get_submodule(linear.name).register_forward_pre_hook(
            lambda _, inputs, name=linear.name: seen.update({name: inputs[0]})
        )
    with torch.no_grad():
        model(torch.arange(7).unsqueeze(0))
    for group in (architecture.block.attention_inputs, architecture.block.mlp_inputs):
        assert all(seen[linear.name] is seen[group[0].name] for linear in group)
    assert list(seen) == [linear.name for linear in architecture.block.linears]


def test_internlm2_is_llama_under_other_names():
    """Its class is remote code, so its description is held against Llama's by role."""
    ours, llama = ARCHITECTURES["InternLM2ForCausalLM"], ARCHITECTURES["LlamaForCausalLM"]

    def renamed(name: str) -> str:
        for old, new in INTERNLM2_NAMES.items():
            name = name.replace(old, new)
        return name

    assert ours.embedding == renamed(llama.embedding)
    assert ours.head == renamed(llama.head)
    assert ours.final_norm == llama.final_norm
    assert ours.block.norms == tuple(renamed(norm) for norm in llama.block.norms)
    for role in ("output", "gate", "up", "down"):
        assert ours.block.linear_of(role).name == renamed(llama.block.linear_of(role).name)
    config = {**SIZES, "bias": True, "architectures": ["InternLM2ForCausalLM"]}
    tensors = all_tensors(ours, read_shape(config, ours))
    assert tensors["model.layers.0.attention.wqkv.weight"] == (128 + 64 + 64, 128)
    assert tensors["model.layers.0.attention.wqkv.bias"] == (256,)
    assert tensors["model.layers.1.attention.wo.bias"] == (128,)
    assert "model.layers.0.feed_forward.w1.bias" not in tensors


def test_internlm3_has_two_switches_for_biases():
    """transformers wants them equal; the checkpoints' own code (modeling_internlm3.py) does not."""
    ours = ARCHITECTURES["InternLM3ForCausalLM"]
    tensors = all_tensors(ours, read_shape({**SIZES, "qkv_bias": True, "bias": False}, ours))
    biases = {name for name in tensors if name.startswith("model.layers.0.") and "bias" in name}
    assert biases == {f"model.layers.0.self_attn.{part}_proj.bias" for part in "qkv"}


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("LlamaForCasualLM", "closest known: `LlamaForCausalLM`"),
        ("Qwen2MoeForCausalLM", "closest known: `Qwen2ForCausalLM`"),
        ("Falcon", "known: Gemma2ForCausalLM, InternLM2ForCausalLM"),
    ],
)
def test_an_unknown_architecture_names_the_closest(asked, hint):
    with pytest.raises(UnsupportedModelError, match=asked) as caught:
        describe(asked)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)
    assert caught.value.exit_code == 3
