"""The linears a decoder multiplies with: the one place that knows whether they are quantized.

Quantized weights are dequantized once, when they are loaded, so a 4-bit folder takes as much
memory here as the 16-bit one; kernels that multiply with the codes themselves will replace
`Linear.__call__` and `_fill` and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mindpress.formats.finite import check_finite
from mindpress.formats.quantized import QuantizedWeight
from mindpress.sources.source import LinearWeight

NOT_FINITE = "download the model again, or try --dtype bfloat16 if they are too large"


@dataclass(frozen=True, slots=True)
class Linear:
    """x W^T + b."""

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"] | None = None

    def __call__(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        return functional.linear(x, self.weight, self.bias)


def stack(
    parts: Sequence[LinearWeight], *, dtype: torch.dtype, device: torch.device, name: str
) -> Linear:
    """One linear whose output rows are those of `parts`, one after the other.

    Linears that read the same input become one matrix product. Raises NumericError when a weight
    is not finite in `dtype`; `name` says where. Peak memory: the result and one part.
    """
    sizes = [_rows(part) for part in parts]
    columns = _columns(parts[0])
    weight = torch.empty(sum(sizes), columns, dtype=dtype, device=device)
    for part, rows in zip(parts, weight.split(sizes), strict=True):
        _fill(rows, part)
    bias = None
    if any(part.bias is not None for part in parts):
        bias = torch.zeros(sum(sizes), dtype=dtype, device=device)
        for part, rows in zip(parts, bias.split(sizes), strict=True):
            if part.bias is not None:
                rows.copy_(part.bias)
        check_finite(bias, f"{name} biases in {dtype}", NOT_FINITE)
    check_finite(weight, f"{name} weights in {dtype}", NOT_FINITE)
    return Linear(weight, bias)


def _fill(rows: Float[Tensor, "rows inputs"], part: LinearWeight) -> None:
    if isinstance(part.weight, QuantizedWeight):
        rows.copy_(part.weight.dequantize(torch.float32))
    else:
        rows.copy_(part.weight)


def _rows(part: LinearWeight) -> int:
    return _dense_shape(part)[0]


def _columns(part: LinearWeight) -> int:
    return _dense_shape(part)[1]


def _dense_shape(part: LinearWeight) -> torch.Size:
    return (part.weight.codes if isinstance(part.weight, QuantizedWeight) else part.weight).shape
