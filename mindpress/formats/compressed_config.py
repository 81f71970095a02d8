"""`quantization_config` of compressed-tensors -> the layout of the weights beside it."""

from collections.abc import Mapping
from typing import Any, cast

from mindpress.errors import InputError
from mindpress.formats.activations import read_activations
from mindpress.formats.compressed_tensors import (
    LINEARS,
    REGEX,
    WHERE,
    WIDTHS,
    CompressedLayout,
    Kind,
)
from mindpress.formats.config_fields import flag, group_size, one_of
from mindpress.formats.name_patterns import check_pattern
from mindpress.formats.quantized import WHOLE_ROW, QuantSpec


def read_quantization_config(config: Mapping[str, Any]) -> CompressedLayout:
    """The layout that a `quantization_config` of method compressed-tensors describes.

    Refuses other formats.
    """
    groups = _groups(config)
    kind = _kind(config, groups)
    specs = [_spec(_weights(group), kind) for group in groups]
    targets = _targets(groups, specs)
    usual = targets.get(LINEARS, specs[0])
    return CompressedLayout(
        spec=usual,
        kind=kind,
        ignored=_names(config, "ignore"),
        everywhere=LINEARS in targets,
        activations=read_activations(config),
        others=_in_order(targets) if len(set(specs)) > 1 else (),
    )


def _in_order(targets: Mapping[str, QuantSpec]) -> tuple[tuple[str, QuantSpec], ...]:
    """As compressed-tensors 0.19 finds a module (`match_targets`): names, patterns, its class."""
    named = [(name, spec) for name, spec in targets.items() if name != LINEARS]
    return tuple(sorted(named, key=lambda rule: (rule[0].startswith(REGEX), rule[0])))


def _targets(groups: list[Mapping[str, Any]], specs: list[QuantSpec]) -> dict[str, QuantSpec]:
    """The spec of every target; InputError when two groups name one and differ."""
    found: dict[str, QuantSpec] = {}
    for group, spec in zip(groups, specs, strict=True):
        for name in _names(group, "targets", "config_groups: "):
            if found.setdefault(name, spec) != spec:
                raise InputError(
                    f"{WHERE}: config_groups quantize {name!r} in different ways",
                    hint="name every module in one group only",
                )
    return found


def _groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = config.get("config_groups")
    groups = list(found.values()) if isinstance(found, dict) else []
    if not groups or not all(isinstance(group, dict) for group in groups):
        raise InputError(f"{WHERE}: config_groups is {found!r}, expected objects by name")
    status = config.get("quantization_status")
    if status not in (None, "compressed"):
        raise InputError(
            f"{WHERE}: quantization_status is {status!r}, expected 'compressed'",
            hint="save it with save_compressed=True",
        )
    for key in ("kv_cache_scheme", "transform_config", "sparsity_config"):
        value = config.get(key)
        if value and not (isinstance(value, dict) and value.get("format") == "dense"):
            raise InputError(f"{WHERE}: {key} cannot be read: {value!r}")
    return groups


def _kind(config: Mapping[str, Any], groups: list[Mapping[str, Any]]) -> Kind:
    named = [config.get("format"), *(group.get("format") for group in groups)]
    for kind in named:
        if kind is not None and (not isinstance(kind, str) or kind not in WIDTHS):
            raise InputError(
                f"{WHERE}: format {kind!r} cannot be read",
                hint=f"mindpress reads {' and '.join(WIDTHS)}",
            )
    kinds = {kind for kind in named if kind is not None}
    if len(kinds) != 1:
        raise InputError(f"{WHERE}: format is {named[0]!r}, expected one for all modules")
    return cast(Kind, kinds.pop())


def _weights(group: Mapping[str, Any]) -> Mapping[str, Any]:
    weights = group.get("weights")
    if not isinstance(weights, dict):
        raise InputError(f"{WHERE}: weights is {weights!r}, expected an object")
    return weights


def _spec(weights: Mapping[str, Any], kind: Kind) -> QuantSpec:
    bits = one_of(weights, "num_bits", WIDTHS[kind])
    if weights.get("type", "int") != "int":
        raise InputError(f"{WHERE}: weights of type {weights['type']!r} cannot be read, only 'int'")
    strategy = weights.get("strategy")
    if strategy not in ("group", "channel"):
        raise InputError(f"{WHERE}: strategy is {strategy!r}, expected 'group' or 'channel'")
    size = group_size(weights, "group_size") if strategy == "group" else WHOLE_ROW
    return QuantSpec(bits, size, symmetric=flag(weights, "symmetric", absent=True))


def _names(config: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """Names of modules and patterns of names."""
    rules = config.get(key) or []
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise InputError(f"{WHERE}: {where}{key} is {rules!r}, expected a list of module names")
    for rule in rules:
        if rule.startswith(REGEX):
            check_pattern(rule.removeprefix(REGEX), f"{WHERE}: {where}{key}")
    return tuple(rules)
