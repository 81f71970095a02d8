"""Roles (query, key, value, gate, up ...) out of fused linears, and back.

Works on the first axis, so weights, biases, codes, scales and zeros all go the same way.
"""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from mindpress.formats.quantized import QuantizedWeight
from mindpress.models.description import Linear, Role
from mindpress.models.shape import ModelShape


def role_rows(linear: Linear, shape: ModelShape) -> dict[Role, Tensor]:
    """For each role of `linear`, which rows of the stored tensor are its rows, in order."""
    total = sum(shape.rows[role] for role in linear.roles)
    if linear.grouped:
        return _grouped_rows(torch.arange(total), linear, shape)
    pieces = torch.arange(total).split([shape.rows[role] for role in linear.roles])
    return dict(zip(linear.roles, pieces, strict=True))


def _grouped_rows(
    rows: Int64[Tensor, " rows"], linear: Linear, shape: ModelShape
) -> dict[Role, Tensor]:
    """[kv head, heads per group, channel] -> the rows of each role, heads in order."""
    per_group = [shape.rows[role] // (shape.kv_heads * shape.head_dim) for role in linear.roles]
    grid = rows.view(shape.kv_heads, sum(per_group), shape.head_dim)
    pieces = grid.split(per_group, dim=1)
    return {role: piece.flatten() for role, piece in zip(linear.roles, pieces, strict=True)}


def unfuse(
    tensor: Shaped[Tensor, "rows ..."], linear: Linear, shape: ModelShape
) -> dict[Role, Tensor]:
    """The rows of each role. Views where the rows are neighbours, copies where they are not."""
    if len(linear.roles) == 1:
        return {linear.roles[0]: tensor}
    if not linear.grouped:
        sizes = [shape.rows[role] for role in linear.roles]
        return dict(zip(linear.roles, tensor.split(sizes), strict=True))
    return {role: tensor[rows] for role, rows in role_rows(linear, shape).items()}


def fuse(parts: dict[Role, Tensor], linear: Linear, shape: ModelShape) -> Tensor:
    """Inverse of `unfuse`."""
    if len(linear.roles) == 1:
        return parts[linear.roles[0]]
    stacked = torch.cat([parts[role] for role in linear.roles])
    if not linear.grouped:
        return stacked
    rows = torch.cat([role_rows(linear, shape)[role] for role in linear.roles])
    fused = torch.empty_like(stacked)
    fused[rows] = stacked
    return fused


def unfuse_quantized(
    weight: QuantizedWeight, linear: Linear, shape: ModelShape
) -> dict[Role, QuantizedWeight]:
    """`unfuse` for codes, scales and zeros together."""
    codes = unfuse(weight.codes, linear, shape)
    scales, zeros = unfuse(weight.scales, linear, shape), unfuse(weight.zeros, linear, shape)
    return {
        role: QuantizedWeight(codes[role], scales[role], zeros[role], weight.spec)
        for role in linear.roles
    }


def fuse_quantized(
    parts: dict[Role, QuantizedWeight], linear: Linear, shape: ModelShape
) -> QuantizedWeight:
    """Inverse of `unfuse_quantized`."""
    return QuantizedWeight(
        codes=fuse({role: part.codes for role, part in parts.items()}, linear, shape),
        scales=fuse({role: part.scales for role, part in parts.items()}, linear, shape),
        zeros=fuse({role: part.zeros for role, part in parts.items()}, linear, shape),
        spec=parts[linear.roles[0]].spec,
    )
