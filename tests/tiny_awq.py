"""A tiny AWQ folder with random codes, made of a folder that `save_tiny` wrote."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mindpress.formats import awq
from mindpress.formats.quantized import QuantizedWeight, QuantSpec


def quantize_folder(folder: Path, spec: QuantSpec | None = None, *, left: str = "none") -> Path:
    """Replace every linear of the blocks by codes, but those with `left` in their names."""
    spec = spec or QuantSpec()
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name in [n for n, t in tensors.items() if ".layers." in n and t.dim() == 2]:
        if left in name:
            continue
        outputs, inputs = tensors.pop(name).shape
        weight = random_weight(outputs, inputs, spec, generator)
        prefix = name.removesuffix("weight")
        tensors |= {f"{prefix}{part}": data for part, data in awq.pack(weight).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = awq.quantization_config(spec, ())
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_weight(
    outputs: int, inputs: int, spec: QuantSpec, generator: torch.Generator
) -> QuantizedWeight:
    """Codes, zeros and scales without any structure."""
    groups = inputs // spec.group_of(inputs)
    levels = spec.max_code + 1

    def codes(columns: int) -> torch.Tensor:
        drawn = torch.randint(levels, (outputs, columns), generator=generator)
        return drawn.to(torch.uint8)

    scales = torch.rand(outputs, groups, generator=generator) * 0.1 + 1e-3
    return QuantizedWeight(codes(inputs), scales.half(), codes(groups), spec)
