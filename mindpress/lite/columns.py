"""Rounding column by column, each error spread over the columns that follow."""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from mindpress.formats.quantized import QuantSpec
from mindpress.lite.factor import InverseFactor
from mindpress.lite.rounding import PerGroup

# Errors of this many columns reach those outside in one product.
WIDTH = 64

Columns = Float32[Tensor, "inputs outputs"]


@torch.no_grad()
def visit_columns(
    weight: Float32[Tensor, "outputs inputs"],
    factor: InverseFactor,
    scales: PerGroup,
    zeros: PerGroup,
    spec: QuantSpec,
) -> UInt8[Tensor, "outputs inputs"]:
    """Codes of `weight` on given grids, its columns visited in the factor's order.

    Column j is rounded and (w_j - q_j) / U_jj * U_jk subtracted from every column k after it, with
    U the factor (Frantar et al. 2022, "GPTQ", algorithm 1). Peak memory: the weight twice.
    """
    order, upper = factor.order, factor.upper
    group = order // spec.group_of(weight.shape[1])
    scales, zeros = scales.t().contiguous(), zeros.t().contiguous()
    left: Columns = weight.t()[order].contiguous()
    codes = torch.empty(left.shape, dtype=torch.uint8, device=left.device)
    for start in range(0, len(order), WIDTH):
        some = slice(start, start + WIDTH)
        triangle = upper[some, some]
        codes[order[some]], errors = _visit(
            left[some], triangle, scales[group[some]], zeros[group[some]], spec
        )
        left[start + WIDTH :].addmm_(upper[some, start + WIDTH :].t(), errors, alpha=-1)
    return codes.t().contiguous()


def _visit(
    columns: Columns, upper: Tensor, scales: Columns, zeros: Columns, spec: QuantSpec
) -> tuple[UInt8[Tensor, "inputs outputs"], Columns]:
    """Codes, and each column's error over its diagonal element; changes `columns`."""
    codes, errors = torch.empty_like(columns), torch.empty_like(columns)
    for index, diagonal in enumerate(upper.diagonal().tolist()):
        code = torch.div(columns[index], scales[index], out=codes[index]).round_()
        code.add_(zeros[index]).clamp_(0, spec.max_code)
        error = torch.addcmul(columns[index], code - zeros[index], scales[index], value=-1)
        errors[index] = error.div_(diagonal)
        columns[index + 1 :].addr_(upper[index, index + 1 :], errors[index], alpha=-1)
    return codes.to(torch.uint8), errors
