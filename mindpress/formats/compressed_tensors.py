"""The layouts of compressed-tensors, which llm-compressor writes and vLLM reads.

pack-quantized: `weight_packed` int32 [out, in * bits / 32], packed along inputs; `weight_scale`
[out, in / g]; `weight_zero_point` int32 [out * bits / 32, in / g], packed along outputs, absent
when codes are symmetric; `weight_shape` int64 [2]. int-quantized (W8A8): `weight` int8 [out, in]
and `weight_scale` [out, 1]; the rounding of activations that goes with it is not a part of the
weights. Codes and zeros are signed in the library, and stored plus 2^(bits-1) when packed.

Codes of 3 bits cross their words since version 0.18, and with them every width is one stream;
before, a word held ten and two bits of nothing. vLLM reads 2 and 3 bits only as 0.18 packs them.
Source: compressed-tensors 0.12 and 0.20, compressors/pack_quantized and naive_quantized; vLLM,
compressed_tensors_wNa16.py (which widths are read).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.activations import PER_TOKEN, Activations, read_activations
from mindpress.formats.bit_stream import pack_stream, stream_words, unpack_stream
from mindpress.formats.config_fields import flag, group_size, one_of
from mindpress.formats.layout import WORDS, LeftOut, Part
from mindpress.formats.quantized import WHOLE_ROW, QuantizedWeight, QuantSpec

Kind = Literal["pack-quantized", "int-quantized"]

WIDTHS: dict[Kind, tuple[int, ...]] = {"pack-quantized": (2, 3, 4, 8), "int-quantized": (8,)}
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
WIDE_FIRST = (torch.float32, torch.float16, torch.bfloat16)
# vLLM reads zero points of these.
WITH_ZEROS = (4, 8)
REGEX = "re:"
WHERE = "config.json: quantization_config"


@dataclass(frozen=True, slots=True)
class CompressedLayout:
    """The layout of one folder. `ignored` are modules left in floats, by name or `re:` pattern.

    `everywhere`: every linear that is not ignored must be quantized. `activations` says how what
    they read is rounded.
    """

    spec: QuantSpec
    kind: Kind = "pack-quantized"
    ignored: tuple[str, ...] = ()
    everywhere: bool = True
    activations: Activations | None = None
    method: str = "compressed-tensors"

    @property
    def label(self) -> str:
        """For people."""
        rounded = ", int8 activations" if self.activations else ""
        return f"compressed-tensors {self.kind}{rounded}"

    @property
    def index(self) -> str | None:
        """The part with the group of each input."""
        return "weight_g_idx"

    @property
    def written(self) -> tuple[str, ...]:
        """The parts of `pack`."""
        zeros = () if self.spec.symmetric else ("weight_zero_point",)
        codes = ("weight_packed", "weight_shape")
        return (*(codes if self.kind == "pack-quantized" else ("weight",)), "weight_scale", *zeros)

    @property
    def readers(self) -> tuple[str, ...]:
        """Programs that read such a folder. Zero points of a model that transformers keeps in codes
        are not packed when it expects them (compressed-tensors 0.20, `compress` on meta).
        """
        vllm = ("vLLM",) if self._served else ()
        since = "" if self.spec.bits in WITH_ZEROS else " 0.18 or later"
        how = "installed" if self.spec.symmetric else "and dequantize=True"
        return (*vllm, f"transformers (with compressed-tensors{since} {how})")

    @property
    def limits(self) -> tuple[str, ...]:
        """Which usual ones do not."""
        if self._served:
            return ()
        return (f"vLLM reads {self.spec.bits} bits without zero points only: add --w-sym",)

    @property
    def _served(self) -> bool:
        return self.spec.symmetric or self.spec.bits in WITH_ZEROS

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
            "weight_scale": Part((outputs, groups), FLOATS if packed else WIDE_FIRST),
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

    def quantization_config(self, left: LeftOut) -> dict[str, Any]:
        """`quantization_config` of config.json: one scheme for every linear that is not ignored."""
        whole_row = self.spec.group_size == WHOLE_ROW
        weights = {
            "num_bits": self.spec.bits,
            "type": "int",
            "symmetric": self.spec.symmetric,
            "strategy": "channel" if whole_row else "group",
            "group_size": None if whole_row else self.spec.group_size,
            "dynamic": False,
            "actorder": None,
        }
        scheme = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": dict(PER_TOKEN) if self.activations else None,
            "output_activations": None,
        }
        return {
            "quant_method": self.method,
            "format": self.kind,
            "quantization_status": "compressed",
            "config_groups": {"group_0": scheme},
            "ignore": [*left.names, *(rf"{REGEX}{re.escape(b)}\..*" for b in left.whole)],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

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
    return CompressedLayout(specs[0], kind, _ignored(config), everywhere, read_activations(config))


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
