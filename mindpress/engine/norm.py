"""Root-mean-square norms. Source: Zhang and Sennrich 2019, equation 4."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Hidden = Float[Tensor, "*tokens channels"]


def rms_norm(x: Hidden, weight: Float[Tensor, " channels"], eps: float) -> Hidden:
    """x / sqrt(mean(x^2) + eps) * weight in float32, rounded once to the dtype of x."""
    return functional.rms_norm(x.float(), (x.shape[-1],), weight, eps).to(x.dtype)


def head_norms(
    x: Float[Tensor, "*tokens heads channels"],
    weights: Float[Tensor, "heads channels"],
    eps: float,
) -> Float[Tensor, "*tokens heads channels"]:
    """The same with a weight for each head."""
    return (functional.rms_norm(x.float(), (x.shape[-1],), None, eps) * weights).to(x.dtype)


def add_normed(
    x: Hidden, change: Hidden, weight: Float[Tensor, " channels"], eps: float
) -> tuple[Hidden, Hidden]:
    """x + change, and its norm."""
    x = x + change
    return x, rms_norm(x, weight, eps)
