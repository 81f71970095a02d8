"""Tiny random checkpoints of every family, written by the real transformers classes.

`save_tiny("qwen2", folder)` writes a folder as a user would download it; `tiny_model` gives the
model those weights came from, to compare logits with (for InternLM2, whose own class is remote
code, its Llama twin).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import mindpress.demo

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "internlm2", "internlm3", "phi3", "gemma2")
TOKENIZER = Path(mindpress.demo.__file__).parent / "tiny-llama"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 32},
    "mistral": {"head_dim": 32, "sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "internlm2": {"head_dim": 32},
    "internlm3": {"head_dim": 32},
    "phi3": {},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24},
}
# InternLM2 is Llama under other names; the fused wqkv is made in `fuse_wqkv`.
INTERNLM2_NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tiny_model(
    family: str, *, dtype: torch.dtype = torch.float16, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """The model whose weights `save_tiny` writes for the same arguments."""
    model_type = "llama" if family == "internlm2" else family
    config = AutoConfig.for_model(model_type, **(SIZES | OWN[family] | overrides))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _randomise(model, torch.Generator().manual_seed(seed))
    return model.to(dtype).eval()


def save_tiny(
    family: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
    tokenizer: bool = True,
    max_shard_size: str = "5GB",
    **overrides: Any,
) -> Path:
    """Write a checkpoint of `family` to `folder` and return the folder.

    `overrides` are keys of the transformers config (`vocab_size=256`, `tie_word_embeddings=True`,
    `attention_bias=True`). The tokenizer has 4096 tokens, as the model has by default.
    """
    model = tiny_model(family, dtype=dtype, seed=seed, **overrides)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if family == "internlm2":
        _rename_to_internlm2(folder)
    if family == "internlm3":
        _respell_as_internlm3(folder)
    if tokenizer:
        for name in TOKENIZER_FILES:
            shutil.copyfile(TOKENIZER / name, folder / name)
    return folder


@torch.no_grad()
def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    """No weight at its default: a forgotten bias or norm must change the logits."""
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2:
            embedding = "embed_tokens" in name
            parameter.copy_(noise * (0.3 if embedding else parameter.shape[1] ** -0.5))
        elif name.endswith("bias"):
            parameter.copy_(noise * 0.1)
        else:
            parameter.add_(noise * 0.2)


def edit_config(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; None deletes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}, indent=2))


def _rename_to_internlm2(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        fused = name.replace("self_attn.q_proj", "attention.wqkv")
        tensors[fused] = fuse_wqkv(*parts, heads=heads, kv_heads=kv_heads)
    renamed = {_internlm2_name(name): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(
        folder,
        architectures=["InternLM2ForCausalLM"],
        model_type="internlm2",
        auto_map={"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
        bias=config["attention_bias"],
        rope_theta=config["rope_parameters"]["rope_theta"],
        rope_scaling=None,
        rope_parameters=None,
        attention_bias=None,
        mlp_bias=None,
    )


def _internlm2_name(name: str) -> str:
    for old, new in INTERNLM2_NAMES.items():
        name = name.replace(old, new)
    return name


def fuse_wqkv(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, heads: int, kv_heads: int
) -> torch.Tensor:
    """modeling_internlm2.py: "(h gs d)": per kv head its query heads, then its key, its value."""
    queries, keys, values = query.chunk(heads), key.chunk(kv_heads), value.chunk(kv_heads)
    rows, share = [], heads // kv_heads
    for head in range(kv_heads):
        rows += [*queries[head * share : (head + 1) * share], keys[head], values[head]]
    return torch.cat(rows)


def _respell_as_internlm3(folder: Path) -> None:
    """The Hub's InternLM3 configs name their own class and spell biases in their own way."""
    config = json.loads((folder / "config.json").read_text())
    edit_config(
        folder,
        architectures=["InternLM3ForCausalLM"],
        qkv_bias=config["attention_bias"],
        bias=config["mlp_bias"],
        attention_bias=None,
        mlp_bias=None,
    )
