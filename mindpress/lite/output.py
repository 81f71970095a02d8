"""A quantized block or an outer tensor under the checkpoint's own names, as it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mindpress.formats.fusion import fuse, fuse_quantized, unfuse, unfuse_quantized
from mindpress.formats.layout import LeftOut, Together
from mindpress.formats.quantized import QuantizedWeight
from mindpress.lite.plan import QuantizationPlan
from mindpress.lite.sites import sites_of
from mindpress.lite.task import IN_FLOATS, BlockCodes, SiteWidths
from mindpress.models.description import Architecture, Linear, Role
from mindpress.models.tensors import block_tensors, outer_tensors
from mindpress.sources.folder import NORM_FIELDS


def output_names(plan: QuantizationPlan) -> list[str]:
    """Every tensor of the finished folder, in the order it is written."""
    architecture, shape = plan.source.architecture, plan.source.shape
    codes = {p.linear.name for p in plan.linears if not p.obstacle}
    block: list[str] = []
    for name in block_tensors(architecture, shape):
        stem, _, kind = name.rpartition(".")
        packed = kind == "weight" and stem in codes
        block += [f"{stem}.{part}" for part in plan.layout.written] if packed else [name]
    inner = [f"{architecture.layer(i)}.{name}" for i in range(shape.layers) for name in block]
    return [*outer_tensors(architecture, shape), *inner]


def block_output(
    plan: QuantizationPlan, runs: Architecture, index: int, result: BlockCodes
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a block; `result` uses the names of the class that runs it."""
    reads, prefix = plan.source.architecture, plan.source.architecture.layer(index)
    for linear in reads.block.linears:
        name = f"{prefix}.{linear.name}"
        if runs.block.linear_of(linear.roles[0]).name not in result.codes:
            yield f"{name}.weight", _floats(plan, runs, linear, result, "weight")
        else:
            codes = _codes(plan, runs, linear, result)
            packed = plan.layout.with_spec(codes.spec).pack(codes)
            yield from ((f"{name}.{part}", tensor) for part, tensor in packed.items())
        if plan.source.shape.has_bias(linear.roles[0]):
            yield f"{name}.bias", _floats(plan, runs, linear, result, "bias")
    for field in NORM_FIELDS:
        if getattr(reads.block, field):
            norm = result.floats[f"{getattr(runs.block, field)}.weight"]
            yield f"{prefix}.{getattr(reads.block, field)}.weight", norm


def output_config(
    plan: QuantizationPlan, widths: Sequence[SiteWidths], left: tuple[int, ...] = ()
) -> dict[str, Any]:
    """config.json of the finished folder, with the blocks `left` wholly in floats."""
    config = dict(plan.source.config)
    stored = str(plan.stored).removeprefix("torch.")
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[key] = stored
    config["quantization_config"] = _quantization_config(plan, widths, left)
    return config


def _quantization_config(
    plan: QuantizationPlan, widths: Sequence[SiteWidths], left: tuple[int, ...]
) -> dict[str, Any]:
    architecture = plan.source.architecture
    blocks = tuple(architecture.layer(index) for index in range(plan.source.shape.layers))
    groups: dict[int, list[Together]] = {}
    for index, (block, layer) in enumerate(zip(blocks, widths, strict=True)):
        for site in sites_of(architecture.block):
            names = [x.name for x in site.linears if x.name not in plan.skipped]
            if names and index not in left:
                together = tuple(f"{block}.{name}" for name in names)
                groups.setdefault(layer[site.name], []).append(together)
    floats = tuple(groups.pop(IN_FLOATS, ()))
    specs = {replace(plan.spec, bits=bits): tuple(groups[bits]) for bits in sorted(groups)}
    whole = tuple(blocks[index] for index in left)
    return plan.layout.quantization_config(
        LeftOut(architecture.head, plan.skipped, blocks, whole, floats),
        specs if specs.keys() != {plan.spec} else {},
    )


def _codes(
    plan: QuantizationPlan, runs: Architecture, linear: Linear, result: BlockCodes
) -> QuantizedWeight:
    if linear.name in result.codes and runs is plan.source.architecture:
        return result.codes[linear.name]
    roles: dict[Role, QuantizedWeight] = {}
    for role in linear.roles:
        held = runs.block.linear_of(role)
        roles[role] = unfuse_quantized(result.codes[held.name], held, plan.source.shape)[role]
    return fuse_quantized(roles, linear, plan.source.shape)


def _floats(
    plan: QuantizationPlan, runs: Architecture, linear: Linear, result: BlockCodes, kind: str
) -> Tensor:
    roles: dict[Role, Tensor] = {}
    for role in linear.roles:
        held = runs.block.linear_of(role)
        roles[role] = unfuse(result.floats[f"{held.name}.{kind}"], held, plan.source.shape)[role]
    return fuse(roles, linear, plan.source.shape)
