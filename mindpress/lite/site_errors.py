"""How far the linears of a quantized block are off, by the input they share."""

import torch

from mindpress.lite.awq import quadratic
from mindpress.lite.smoothed import row_divisors
from mindpress.lite.task import BlockCodes, BlockTask, SiteScales, Statistics, Weights

ROWS_REPORTED = 512


@torch.no_grad()
def site_errors(
    weights: Weights, result: BlockCodes, task: BlockTask, scales: SiteScales, seen: Statistics
) -> dict[str, float]:
    """Relative output error ||(Q - W) X||^2 / ||W X||^2 of the linears of each site.

    Measured on an even sample of rows.
    """
    errors = {}
    for site in task.sites():
        change, whole = 0.0, 0.0
        hessian, columns = seen[site.name].hessian, scales.get(site.name)
        for linear in site.linears:
            if linear.name not in result.codes:
                continue
            divisors = row_divisors(linear, scales, task)
            count = result.codes[linear.name].codes.shape[0]
            rows = torch.linspace(0, count - 1, min(count, ROWS_REPORTED)).long()
            rows = rows.to(task.device)
            original = weights[f"{linear.name}.weight"].to(task.device)[rows].float()
            stands_for = result.codes[linear.name].rows(rows).dequantize(torch.float32)
            if divisors is not None:
                stands_for = stands_for * divisors[rows].unsqueeze(1)
            if columns is not None:
                stands_for = stands_for / columns
            change += float(quadratic(stands_for - original, hessian))
            whole += float(quadratic(original, hessian))
        errors[site.name] = change / whole if whole else 0.0
    return errors
