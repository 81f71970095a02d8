"""Whether values are numbers."""

from jaxtyping import Float
from torch import Tensor

from mindpress.errors import NumericError

DAMAGED = "the checkpoint is damaged; download or train it again"


def is_finite(tensor: Float[Tensor, "..."]) -> bool:
    """Whether no element is NaN or infinite; takes no memory."""
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())


def check_finite(tensor: Float[Tensor, "..."], name: str, hint: str = DAMAGED) -> None:
    """NumericError, which names `name`, when one is not."""
    if not is_finite(tensor):
        raise NumericError(f"{name}: NaN or infinite values", hint=hint)
