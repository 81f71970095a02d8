"""The definition of `gated`, in plain torch."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Activation = Literal["silu", "gelu_tanh", "gelu"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "gelu": functional.gelu,
}


def gated_reference(
    gate_up: Float[Tensor, "rows twice"], activation: Activation
) -> Float[Tensor, "rows channels"]:
    """activation(gate) * up, the gate being the first half of every row.

    In float32 (float64 for float64), rounded once. Source: Shazeer 2020, "GLU Variants Improve
    Transformer", equation 6; `gelu_tanh` is Hendrycks and Gimpel 2016, section 2.
    """
    wide = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32))
    gate, up = wide.chunk(2, dim=-1)
    return (ACTIVATIONS[activation](gate) * up).to(gate_up.dtype)
