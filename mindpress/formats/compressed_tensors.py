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
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mindpress.formats.activations import PER_TOKEN, Activations
from mindpress.formats.bit_stream import pack_stream, stream_words, unpack_stream
from mindpress.formats.layout import WORDS, LeftOut, Part, Widths
from mindpress.formats.name_patterns import matches
from mindpress.formats.quantized import WHOLE_ROW, QuantizedWeight, QuantSpec

Kind = Literal["pack-quantized", "int-quantized"]

WIDTHS: dict[Kind, tuple[int, ...]] = {"pack-quantized": (2, 3, 4, 8), "int-quantized": (8,)}
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
WIDE_FIRST = (torch.float32, torch.float16, torch.bfloat16)
# vLLM reads zero points of these.
WITH_ZEROS = (4, 8)
REGEX = "re:"
LINEARS = "Linear"
WHERE = "config.json: quantization_config"


@dataclass(frozen=True, slots=True)
class CompressedLayout:
    """The layout of one folder. `ignored` are modules left in floats, by name or `re:` pattern.

    `everywhere`: every linear that is not ignored must be quantized. `activations` says how what
    they read is rounded. `others` are specs by the name or `re:` pattern of the linears that have
    them; `spec` is that of the rest.
    """

    spec: QuantSpec
    kind: Kind = "pack-quantized"
    ignored: tuple[str, ...] = ()
    everywhere: bool = True
    activations: Activations | None = None
    others: tuple[tuple[str, QuantSpec], ...] = ()
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

    def of(self, name: str) -> "CompressedLayout":
        """The layout of one linear, by the first rule that applies."""
        found = (spec for rule, spec in self.others if _applies(rule, name))
        return self.with_spec(next(found, self.spec))

    def with_spec(self, spec: QuantSpec) -> "CompressedLayout":
        """The same for other codes."""
        return replace(self, spec=spec, others=())

    def skips(self, name: str) -> bool | None:
        """Whether `ignore` names the module; None when only some others are quantized."""
        if any(_applies(rule, name) for rule in self.ignored):
            return True
        return False if self.everywhere else None

    def quantization_config(self, left: LeftOut, widths: Widths) -> dict[str, Any]:
        """`quantization_config` of config.json: one scheme for every linear that is not ignored, or
        one for each width. vLLM looks for the class of a module before it looks into fused ones, so
        that several schemes all go by name.
        """
        schemes = {
            spec: [name for group in groups for name in group] for spec, groups in widths.items()
        } or {self.spec: [LINEARS]}
        groups = {
            f"group_{number}": self._scheme(spec, targets)
            for number, (spec, targets) in enumerate(schemes.items())
        }
        return {
            "quant_method": self.method,
            "format": self.kind,
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": [*left.names, *(rf"{REGEX}{re.escape(b)}\..*" for b in left.whole)],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def _scheme(self, spec: QuantSpec, targets: list[str]) -> dict[str, Any]:
        whole_row = spec.group_size == WHOLE_ROW
        weights = {
            "num_bits": spec.bits,
            "type": "int",
            "symmetric": spec.symmetric,
            "strategy": "channel" if whole_row else "group",
            "group_size": None if whole_row else spec.group_size,
            "dynamic": False,
            "actorder": None,
        }
        return {
            "targets": targets,
            "weights": weights,
            "input_activations": dict(PER_TOKEN) if self.activations else None,
            "output_activations": None,
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


def _applies(rule: str, name: str) -> bool:
    """As compressed-tensors and vLLM read rules of modules."""
    if rule.startswith(REGEX):
        return matches(rule.removeprefix(REGEX), name, WHERE)
    return rule == name


def _signed(codes: Tensor) -> Tensor:
    return (codes.to(torch.int16) - 128).to(torch.int8)


def _unsigned(codes: Tensor) -> Tensor:
    return (codes.to(torch.int16) + 128).to(torch.uint8)
