"""The same by Triton: one launch each."""

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mindpress.engine.glue import Glue
from mindpress.kernels.gated.gpu import gated
from mindpress.kernels.rms_norm.gpu import add_rms_norm, rms_norm

Hidden = Float[Tensor, "*tokens channels"]
Twice = Float[Tensor, "*tokens twice"]


def gpu_glue(activation: str) -> Glue:
    """`activation` as `kernels.gated` names it."""
    return Glue(_norm, _add_norm, partial(_gate, activation))


def _norm(x: Hidden, weight: Tensor, eps: float) -> Hidden:
    return rms_norm(x.reshape(-1, x.shape[-1]), weight, eps).view(x.shape)


def _add_norm(x: Hidden, change: Hidden, weight: Tensor, eps: float) -> tuple[Hidden, Hidden]:
    rows = x.reshape(-1, x.shape[-1])
    normed, total = add_rms_norm(change.reshape(rows.shape), rows, weight, eps)
    return total.view(x.shape), normed.view(x.shape)


def _gate(activation: Any, gate_up: Twice) -> Hidden:
    rows = gate_up.reshape(-1, gate_up.shape[-1])
    return gated(rows, activation).view(*gate_up.shape[:-1], -1)
