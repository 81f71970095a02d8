"""The triangular root of a symmetric matrix and its inverse, each in the place of the other.

The library's functions return new matrices, and work in copies: at the widest input of a block
three of them are more than the block itself.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

WIDTH = 256

Square = Float32[Tensor, "n n"]


@torch.no_grad()
def upper_root(matrix: Square, least: float) -> bool:
    """Overwrite symmetric `matrix` with the upper triangular R that makes it R R^T, zeros below.

    False, and the matrix is lost, when a squared pivot is below `least` or not finite. From the
    last band of columns to the first; the diagonal blocks are factored in float64.
    """
    for start in reversed(range(0, len(matrix), WIDTH)):
        here, above = slice(start, start + WIDTH), slice(0, start)
        block = matrix[here, here].double()
        root, failed = torch.linalg.cholesky_ex(block.flip(0, 1))
        pivots = root.diagonal().square()
        if int(failed) or not bool((pivots >= least).all() and pivots.isfinite().all()):
            return False
        root = root.flip(0, 1)
        matrix[here, here] = root.float()
        matrix[here, above] = 0
        if start:
            band = torch.linalg.solve_triangular(
                root.t(), matrix[above, here].double(), upper=False, left=False
            ).float()
            matrix[above, here] = band
            matrix[above, above].addmm_(band, band.t(), alpha=-1)
    return True


@torch.no_grad()
def invert_upper(matrix: Square) -> Square:
    """Overwrite an upper triangular matrix with its inverse, and return it."""
    for start in range(0, len(matrix), WIDTH):
        here, above = slice(start, start + WIDTH), slice(0, start)
        block = matrix[here, here].double()
        one = torch.eye(len(block), dtype=block.dtype, device=block.device)
        inverse = torch.linalg.solve_triangular(block, one, upper=True).float()
        matrix[here, here] = inverse
        if start:
            matrix[above, here] = matrix[above, above] @ matrix[above, here] @ -inverse
    return matrix
