"""Weights of random 4-bit codes, whatever their shape and groups, for the kernels."""

import torch

from mindpress.formats.quantized import QuantizedWeight, QuantSpec


def weight_of(outputs: int, inputs: int, group: int = 128, bits: int = 4) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(outputs + inputs)
    spec = QuantSpec(bits, group)
    size = outputs, inputs // spec.group_of(inputs)
    return QuantizedWeight(
        torch.randint(0, 2**bits, (outputs, inputs), generator=generator, dtype=torch.uint8),
        torch.rand(size, generator=generator) * 0.01 + 0.001,
        torch.randint(0, 16, size, generator=generator, dtype=torch.uint8),
        spec,
    )
