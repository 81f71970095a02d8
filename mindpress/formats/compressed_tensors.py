"""The layouts of compressed-tensors, which llm-compressor writes and vLLM reads.

pack-quantized: `weight_packed` int32 [out, in * bits / 32], packed along inputs; `weight_scale`
[out, in / g]; `weight_zero_point` int32 [out * bits / 32, in / g], packed along outputs, absent
when codes are symmetric; `weight_shape` int64 [2]. int-quantized (W8A8): `weight` int8 [out, in]
and `weight_scale` [out, 1]; the rounding of activations that goes with it is not a part of the
weights. Codes and zeros are signed in the library, and stored plus 2^(bits-1) when packed.

Source: compressed-tensors 0.12, compressors/pack_quantized and compressors/naive_quantized.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.bit_stream import pack_stream, stream_words, unpack_stream
from mindpress.formats.config_fields import flag, group_size, one_of
from mindpress.formats.layout import WORDS, Part
from mindpress.formats.quantized import WHOLE_ROW, QuantizedWeight, QuantSpec

Kind = Literal["pack-quantized", "int-quantized"]

WIDTHS: dict[Kind, tuple[int, ...]] = {"pack-quantized": (4, 8), "int-quantized": (8,)}
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
REGEX = "re:"
WHERE = "config.json: quantization_config"


@dataclass(frozen=True, slots=True)
class CompressedLayout:
    """The layout of one folder. `ignored` are modules left in floats, by name or `re:` pattern.

    `everywhere`: every linear that is not ignored must be quantized.
    """

    spec: QuantSpec
    kind: Kind = "pack-quantized"
    ignored: tuple[str, ...] = ()
    everywhere: bool = True

    @property
    def label(self) -> str:
        """For people."""
        return f"compressed-tensors {self.kind}"

    @property
    def index(self) -> str | None:
        """The part with the group of each input."""
        return "weight_g_idx"

    @property
    def middle(self) -> int:
        """What is added to signed codes."""
        return 2 ** (self.spec.bits - 1)

    def holds(self, outputs: int, inputs: int) -> bool:  # noqa: ARG002 - as every layout
        """Whether groups are whole; words are filled up."""
        return self.spec.fits(inputs)

    def parts(self, outputs: int, inputs: int) -> dict[str, Part]:
        """The tensors of a linear."""
        bits, groups = self.spec.bits, inputs // self.spec.group_of(inputs)
        packed = self.kind == "pack-quantized"
        parts = {
            "weight_scale": Part((outputs, groups), FLOATS),
            "weight_g_idx": Part((inputs,), WORDS, optional=True),
            # Static ranges of activations, which are not rounded here.
            "input_scale": Part((1,), FLOATS, optional=True),
            "input_zero_point": Part((1,), (torch.int8,), optional=True),
        }
        if packed:
            parts["weight_packed"] = Part((outputs, stream_words(inputs, bits)), WORDS)
            parts["weight_shape"] = Part((2,), (torch.int64, torch.int32))
        else:
            parts["weight"] = Part((outputs, inputs), (torch.int8,))
        if not self.spec.symmetric:
            zeros = (stream_words(outputs, bits), groups), WORDS
            parts["weight_zero_point"] = (
                Part(*zeros) if packed else Part((outputs, groups), (torch.int8,))
            )
        return parts

    def skips(self, name: str) -> bool | None:
        """Whether `ignore` names the module; None when only some others are quantized."""
        for rule in self.ignored:
            pattern = rule.removeprefix(REGEX)
            if re.match(pattern, name) if rule.startswith(REGEX) else rule == name:
                return True
        return False if self.everywhere else None

    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """The tensors of a linear whose groups are neighbours."""
        bits, packed = self.spec.bits, self.kind == "pack-quantized"
        tensors = {"weight_scale": weight.scales.contiguous()}
        if packed:
            tensors["weight_packed"] = pack_stream(weight.codes, bits)
            tensors["weight_shape"] = torch.tensor(weight.codes.shape)
        else:
            tensors["weight"] = _signed(weight.codes)
        if not self.spec.symmetric and packed:
            zeros = pack_stream(weight.zeros.t(), bits)
            tensors["weight_zero_point"] = zeros.t().contiguous()
        elif not self.spec.symmetric:
            tensors["weight_zero_point"] = _signed(weight.zeros)
        return tensors

    def unpack(self, tensors: Mapping[str, Tensor], inputs: int) -> QuantizedWeight:
        """Inverse of `pack`, whatever `weight_g_idx` says."""
        bits, scales = self.spec.bits, tensors["weight_scale"]
        packed = self.kind == "pack-quantized"
        if packed:
            codes = unpack_stream(tensors["weight_packed"], bits, inputs)
        else:
            codes = _unsigned(tensors["weight"])
        zeros = tensors.get("weight_zero_point")
        if zeros is None or self.spec.symmetric:
            zeros = torch.full(scales.shape, self.middle, dtype=torch.uint8)
        elif packed:
            zeros = unpack_stream(zeros.t(), bits, scales.shape[0]).t().contiguous()
        else:
            zeros = _unsigned(zeros)
        return QuantizedWeight(codes, scales, zeros, self.spec)


def read_quantization_config(config: Mapping[str, Any]) -> CompressedLayout:
    """The layout that a `quantization_config` of method compressed-tensors describes.

    Refuses other formats, and groups of modules that are quantized differently.
    """
    groups = _groups(config)
    kind = _kind(config, groups)
    weights = [_weights(group) for group in groups]
    specs = [_spec(one, kind) for one in weights]
    if any(spec != specs[0] for spec in specs):
        raise InputError(
            f"{WHERE}: config_groups quantize modules in different ways; all need the same",
            hint="quantize with one scheme; modules in `ignore` stay in floats",
        )
    everywhere = any(group.get("targets") == ["Linear"] for group in groups)
    return CompressedLayout(specs[0], kind, _ignored(config), everywhere)


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


def _ignored(config: Mapping[str, Any]) -> tuple[str, ...]:
    rules = config.get("ignore") or []
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise InputError(f"{WHERE}: ignore is {rules!r}, expected a list of module names")
    patterns = [rule.removeprefix(REGEX) for rule in rules if rule.startswith(REGEX)]
    try:
        for pattern in patterns:
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{WHERE}: ignore: a pattern cannot be read: {error}") from None
    return tuple(rules)


def _signed(codes: Tensor) -> Tensor:
    return (codes.to(torch.int16) - 128).to(torch.int8)


def _unsigned(codes: Tensor) -> Tensor:
    return (codes.to(torch.int16) + 128).to(torch.uint8)
