"""What stands between the products of a block: norms, the residual, and the gate of the MLP."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mindpress.engine.norm import add_normed, rms_norm
from mindpress.errors import InputError
from mindpress.kernels.dispatch import Kernels

Hidden = Float[Tensor, "*tokens channels"]
Twice = Float[Tensor, "*tokens twice"]
Activation = Callable[[Tensor], Tensor]
GELU_BY_TANH: Activation = partial(functional.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Activation] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": GELU_BY_TANH,
    "gelu_new": GELU_BY_TANH,
    "relu": functional.relu,
}
# Their names in `kernels.gated`.
GATED = {"silu": "silu", "swish": "silu", "gelu": "gelu",
         "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Glue:
    """`norm(x, weight, eps)`; `add_norm(x, change, weight, eps)` gives the sum and its norm;
    `gate(gate_up)` is activation(gate) * up."""

    norm: Callable[[Hidden, Tensor, float], Hidden]
    add_norm: Callable[[Hidden, Hidden, Tensor, float], tuple[Hidden, Hidden]]
    gate: Callable[[Twice], Hidden]


def glue_of(kernels: Kernels, activation: str) -> Glue:
    """By Triton where that multiplies, else by torch. InputError for an unknown activation."""
    function = ACTIVATIONS.get(activation)
    if function is None:
        known = ", ".join(ACTIVATIONS)
        raise InputError(
            f"config.json: activation `{activation}` is not known", hint=f"known: {known}"
        )
    if kernels.name != "triton" or activation not in GATED:
        return Glue(rms_norm, add_normed, partial(_gate, function))
    from mindpress.engine.gpu_glue import gpu_glue

    return gpu_glue(GATED[activation])


def _gate(activation: Activation, gate_up: Twice) -> Hidden:
    gate, up = gate_up.chunk(2, dim=-1)
    return activation(gate) * up
