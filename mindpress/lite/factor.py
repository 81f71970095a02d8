"""The inverse of X^T X in the form that error compensation reads: damped, ordered, factored."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from mindpress.errors import NumericError

MORE_DAMPING = 10.0
MOST_DAMPING = 1e6

Hessian = Float32[Tensor, "inputs inputs"]


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """(H + damping * mean of diag(H) * 1)^-1 = upper^T upper, with columns in `order`.

    `damping` is the share that was needed. Memory: 4 * inputs^2 bytes.
    """

    upper: Float32[Tensor, "inputs inputs"]
    order: Int[Tensor, " inputs"]
    damping: float


@torch.no_grad()
def factorize(hessian: Hessian, damping: float, *, by_importance: bool = True) -> InverseFactor:
    """Factor the inverse of the damped `hessian`; its columns by falling diagonal, or as they are.

    Damping is raised tenfold until the factor exists: it always does when the Hessian has no NaN,
    which is a NumericError. An input that was never active counts as one that no other goes with.
    Peak memory: 16 * inputs^2 bytes beside the Hessian.

    Source: Frantar et al. 2022, "GPTQ", section 3.3, step 3. The factor is computed without the
    inverse: reversed H = L L^T makes H = R R^T with R upper triangular, and R^-1 is the factor.
    """
    diagonal = hessian.diagonal()
    if not bool(diagonal.isfinite().all()):
        raise NumericError("the inputs' second moments are NaN or infinite")
    order = torch.arange(len(diagonal), device=hessian.device)
    if by_importance:
        order = diagonal.argsort(descending=True, stable=True)
    backwards = order.flip(0)
    reversed_ = hessian[backwards][:, backwards].double()
    dead = reversed_.diagonal() == 0
    reversed_.diagonal()[dead] = 1.0
    share, mean = damping, float(reversed_.diagonal().mean())
    while True:
        lower = _cholesky(reversed_, share * mean)
        if lower is not None:
            break
        share = max(share * MORE_DAMPING, 1e-6)
        if share > MOST_DAMPING:
            raise NumericError("the inputs' second moments are NaN or infinite")
    del reversed_
    root = lower.flip(0, 1)
    one = torch.eye(len(order), dtype=root.dtype, device=root.device)
    upper = torch.linalg.solve_triangular(root, one, upper=True).float()
    return InverseFactor(upper, order, share)


def damped(hessian: Hessian, damping: float) -> Hessian:
    """hessian + damping * mean of its diagonal * 1."""
    result = hessian.clone()
    diagonal = result.diagonal()
    diagonal.add_(damping * diagonal.mean())
    return result


def _cholesky(
    hessian: Float[Tensor, "inputs inputs"], added: float
) -> Float[Tensor, "inputs inputs"] | None:
    """The lower factor of the hessian with `added` on its diagonal, or None without one."""
    hessian.diagonal().add_(added)
    lower, failed = torch.linalg.cholesky_ex(hessian)
    hessian.diagonal().sub_(added)
    good = int(failed) == 0 and bool(lower.diagonal().isfinite().all())
    return lower if good else None
