"""Pieces of a weight [outputs, inputs], plain or quantized: cut, padded with zeros, and joined.

What tensor parallelism gives each rank is such a piece. Zero outputs and zero inputs add nothing
to a product, so padding does not change what a model computes.
"""

from typing import cast

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional

from mindpress.formats.quantized import QuantizedWeight, stack_rows

Part = Tensor | QuantizedWeight


def outputs_of(part: Part) -> int:
    """How many outputs a weight or a bias has."""
    return (part if isinstance(part, Tensor) else part.codes).shape[0]


def reorder(part: Part, index: Int64[Tensor, " outputs"]) -> Part:
    """The same weight (or bias) with its outputs in this order."""
    return part.index_select(0, index) if isinstance(part, Tensor) else part.rows(index)


def take_outputs(part: Part, start: int, stop: int) -> Part:
    """Neighbouring outputs, also of a bias. A view."""
    chosen = slice(start, stop)
    return part[chosen] if isinstance(part, Tensor) else part.rows(chosen)


def input_slice(part: Part, rank: int, tp: int) -> Part:
    """The inputs of one rank of `tp`; of a quantized weight, whole groups of them."""
    if tp == 1:
        return part
    if isinstance(part, Tensor):
        return part.chunk(tp, dim=1)[rank]
    return QuantizedWeight(
        codes=part.codes.chunk(tp, dim=1)[rank],
        scales=part.scales.chunk(tp, dim=1)[rank],
        zeros=part.zeros.chunk(tp, dim=1)[rank],
        spec=part.spec,
    )


def stack_outputs(parts: list[Part]) -> Part:
    """The outputs of `parts` one after the other; undoes `take_outputs`."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(cast(list[Tensor], parts))
    return stack_rows(cast(list[QuantizedWeight], parts))


def join_inputs(parts: list[Part]) -> Part:
    """The inputs of `parts` side by side; undoes `input_slice`."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(cast(list[Tensor], parts), dim=1)
    weights = cast(list[QuantizedWeight], parts)
    return QuantizedWeight(
        codes=torch.cat([weight.codes for weight in weights], dim=1),
        scales=torch.cat([weight.scales for weight in weights], dim=1),
        zeros=torch.cat([weight.zeros for weight in weights], dim=1),
        spec=weights[0].spec,
    )


def pad_outputs(part: Part, outputs: int) -> Part:
    """Zero outputs appended up to `outputs`."""
    missing = outputs - outputs_of(part)
    if not missing:
        return part
    return _padded(part, (0, 0, 0, missing), (0, 0, 0, missing))


def pad_inputs(part: Part, inputs: int) -> Part:
    """Zero inputs appended up to `inputs`; of a quantized weight, whole groups of them."""
    missing = inputs - (part if isinstance(part, Tensor) else part.codes).shape[1]
    if not missing:
        return part
    groups = missing // part.group_size if isinstance(part, QuantizedWeight) else 0
    return _padded(part, (0, missing), (0, groups))


def _padded(part: Part, padding: tuple[int, ...], group_padding: tuple[int, ...]) -> Part:
    if isinstance(part, Tensor):
        return functional.pad(part, padding)
    return QuantizedWeight(
        codes=functional.pad(part.codes, padding),
        scales=functional.pad(part.scales, group_padding),
        zeros=functional.pad(part.zeros, group_padding),
        spec=part.spec,
    )
