"""Weights whose groups are not neighbouring inputs, as GPTQ in order of importance leaves them.

`QuantizedWeight` cannot say such a thing, and no kernel of ours reads it: they become floats.
"""

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.quantized import QuantizedWeight


def is_scattered(index: Int32[Tensor, " inputs"], groups: int, place: str) -> bool:
    """Whether `index`, the group of each input, is another one than that of neighbours.

    InputError, which names the `place`, when it does not divide the inputs into `groups` of the
    same size.
    """
    size = len(index) // groups
    neighbours = torch.arange(len(index), dtype=index.dtype) // size
    if not torch.equal(index.sort().values, neighbours):
        raise InputError(
            f"{place} does not put {size} inputs into each of {groups} groups",
            hint="download the model again, or check group_size in config.json",
        )
    return not torch.equal(index, neighbours)


def dequantize_scattered(
    weight: QuantizedWeight, index: Int32[Tensor, " inputs"]
) -> Float32[Tensor, "outputs inputs"]:
    """The weight where input i belongs to group `index[i]`. Peak memory: 9 bytes per weight."""
    order = index.argsort(stable=True)
    grouped = QuantizedWeight(weight.codes[:, order], weight.scales, weight.zeros, weight.spec)
    floats = torch.empty(weight.codes.shape)
    floats[:, order] = grouped.dequantize(torch.float32)
    return floats
