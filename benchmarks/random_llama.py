"""Write a Llama of a given size with random weights, block by block: `random_llama.py FOLDER`."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import mindpress.demo
from mindpress.models.llama import LLAMA
from mindpress.models.shape import read_shape
from mindpress.models.tensors import block_tensors, outer_tensors

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write(folder: Path, dtype: str, config: dict[str, object]) -> None:
    """One shard for each block, one for embedding and head."""
    folder.mkdir(parents=True)
    shape, kind = read_shape(config, LLAMA), getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    shards = [outer_tensors(LLAMA, shape)]
    block = block_tensors(LLAMA, shape)
    shards += [{f"{LLAMA.layer(i)}.{n}": s for n, s in block.items()} for i in range(shape.layers)]
    weight_map: dict[str, str] = {}
    for number, sizes in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _random(size, generator).to(kind) for name, size in sizes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2))
    source = Path(mindpress.demo.__file__).parent / "tiny-llama"
    for name in TOKENIZER:
        shutil.copyfile(source / name, folder / name)


def llama_config(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int
) -> dict[str, object]:
    """config.json of a Llama with a vocabulary of 32,000 and an untied head."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _random(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(size) == 1:
        return torch.ones(size)
    return torch.randn(size, generator=generator).mul_(size[1] ** -0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=["float16", "bfloat16"])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=5632)
    args = parser.parse_args()
    config = llama_config(args.hidden, args.inner, args.layers, args.hidden // 128, 4)
    write(args.folder, args.dtype, config)


if __name__ == "__main__":
    main()
