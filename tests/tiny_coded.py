"""Tiny folders as GPTQModel and llm-compressor lay them out, with random codes."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mindpress.formats.compressed_tensors import CompressedLayout
from mindpress.formats.gptq import GptqLayout
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from tests.tiny_awq import random_weight
from tests.tiny_models import edit_config

Weights = dict[str, QuantizedWeight]


def code_folder(
    folder: Path, layout: GptqLayout | CompressedLayout, *, left: str = "none"
) -> Weights:
    """Replace every linear of the blocks by codes, but those with `left` in their names."""
    file, coded = folder / "model.safetensors", {}
    tensors, generator = load_file(file), torch.Generator().manual_seed(1)
    for name in [n for n, t in tensors.items() if ".layers." in n and t.dim() == 2]:
        if left in name:
            continue
        weight = random_weight(*tensors.pop(name).shape, layout.spec, generator)
        if layout.spec.symmetric:
            weight.zeros.fill_(2 ** (layout.spec.bits - 1))
        linear = name.removesuffix(".weight")
        tensors |= {f"{linear}.{part}": data for part, data in layout.pack(weight).items()}
        coded[linear] = weight
    save_file(tensors, file, metadata={"format": "pt"})
    edit_config(folder, quantization_config=config_of(layout, left))
    return coded


def config_of(layout: GptqLayout | CompressedLayout, left: str = "none") -> dict[str, Any]:
    """The `quantization_config` that the tool would have written."""
    spec: QuantSpec = layout.spec
    if isinstance(layout, GptqLayout):
        named = "gptq" if layout.minus_one else "gptq_v2"
        return {"quant_method": "gptq", "bits": spec.bits, "group_size": spec.group_size,
                "desc_act": False, "sym": spec.symmetric, "checkpoint_format": named}  # fmt: skip
    strategy = {"strategy": "group", "group_size": spec.group_size}
    if spec.group_size == -1:
        strategy = {"strategy": "channel", "group_size": None}
    weights = {"num_bits": spec.bits, "type": "int", "symmetric": spec.symmetric, **strategy}
    return {
        "quant_method": "compressed-tensors",
        "format": layout.kind,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head", f"re:.*{left}"],
        "quantization_status": "compressed",
    }
