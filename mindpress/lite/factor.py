"""The inverse of X^T X in the form that error compensation reads: damped, ordered, factored."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from mindpress.errors import NumericError
from mindpress.lite.triangle import invert_upper, upper_root

MORE_DAMPING = 10.0
MOST_DAMPING = 1e6
EPSILON = torch.finfo(torch.float32).eps
# No pivot of the damped matrix is below what is added to its diagonal; one that is below half of
# it is what rounding left over.
NOISE = 0.5

Hessian = Float32[Tensor, "inputs inputs"]


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """(H + added * 1)^-1 = upper^T upper, with columns in `order`.

    `damping` is the share of the mean of diag(H) that was needed, over inputs that were ever
    active. Memory: 4 * inputs^2 bytes.
    """

    upper: Float32[Tensor, "inputs inputs"]
    order: Int[Tensor, " inputs"]
    damping: float
    added: float


@torch.no_grad()
def factorize(hessian: Hessian, damping: float, *, by_importance: bool = True) -> InverseFactor:
    """Factor the inverse of the damped `hessian`; its columns by falling diagonal, or as they are.

    Damping is raised tenfold until the factor exists: it always does when the Hessian has no NaN,
    which is a NumericError. An input that was never active counts as a usual one that no other
    goes with.
    Peak memory: the factor, 4 * inputs^2 bytes, and a band of it.

    Source: Frantar et al. 2022, "GPTQ", section 3.3, step 3. The factor is computed without the
    inverse: H = R R^T with R upper triangular, and R^-1 is the factor; all in the place of H.
    """
    diagonal = hessian.diagonal()
    if not bool(diagonal.isfinite().all()):
        raise NumericError("the inputs' second moments are NaN or infinite")
    order = torch.arange(len(diagonal), device=hessian.device)
    if by_importance:
        order = diagonal.argsort(descending=True, stable=True)
    active = diagonal[diagonal > 0]
    mean = float(active.mean()) if len(active) else 1.0
    counted, share = torch.where(diagonal == 0, mean, diagonal), damping
    while share <= MOST_DAMPING:
        work = hessian[order.unsqueeze(1), order]
        work.diagonal().copy_(counted[order] + share * mean)
        if upper_root(work, NOISE * max(share, EPSILON) * mean):
            return InverseFactor(invert_upper(work), order, share, share * mean)
        share = max(share * MORE_DAMPING, 1e-6)
    raise NumericError("the inputs' second moments are NaN or infinite")
