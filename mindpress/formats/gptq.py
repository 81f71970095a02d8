"""The GPTQ layout of AutoGPTQ and GPTQModel, which vLLM and transformers read.

A linear of [out, in] is stored transposed: `qweight` int32 [in * bits / 32, out], packed along
inputs; `qzeros` int32 [in / g, out * bits / 32], packed along outputs; `scales` [in / g, out];
`g_idx` int32 [in], the group of each input. Codes stand one after the other in their words; those
of 3 bits cross them.

Format "gptq" (v1) stores zeros minus one, "gptq_v2" stores them as they are. Which is written
follows from the codes: symmetric ones are v1, which every reader takes. Those with zero points are
v2: v1 cannot say a zero of 0, vLLM and GPTQModel read one that borrowed differently, and GPTQModel
refuses v1 with zero points from other programs than itself.
Source: GPTQModel 5, nn_modules/qlinear/__init__.py (pack), utils/model.py (v1 and v2) and
models/loader.py (what is refused); vLLM, pull request 38288 (which widths are left).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.bit_stream import WORD_BITS, pack_stream, stream_words, unpack_stream
from mindpress.formats.config_fields import flag, group_size, one_of
from mindpress.formats.layout import FUSED, WORDS, LeftOut, Part, Together, Widths
from mindpress.formats.name_patterns import check_pattern, matches
from mindpress.formats.quantized import QuantizedWeight, QuantSpec

WIDTHS = (2, 3, 4, 8)
FORMATS = ("gptq", "gptq_v2")
LEFT_OUT = "-:"
CHANGED = "+:"
DYNAMIC = "config.json: quantization_config: dynamic"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
# Bits, without zero points; for LMDeploy also the group.
VLLM_WIDTHS = (4, 8)
LMDEPLOY = (4, 128)
# A one in every code of a word.
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


@dataclass(frozen=True, slots=True)
class GptqLayout:
    """The layout of one folder. `minus_one`: zeros are stored as v1 does. `others` are the specs of
    linears whose names match a pattern; `spec` is that of the rest.
    """

    spec: QuantSpec
    minus_one: bool = True
    others: tuple[tuple[str, QuantSpec], ...] = ()
    index: str | None = "g_idx"
    method: str = "gptq"
    written: tuple[str, ...] = ("qweight", "qzeros", "scales", "g_idx")

    @property
    def label(self) -> str:
        """For people."""
        return "GPTQ" if self.minus_one else "GPTQ v2"

    @property
    def readers(self) -> tuple[str, ...]:
        """Programs that read such a folder."""
        usual = (self.spec.bits, self.spec.group_size) == LMDEPLOY
        served = ("vLLM", *(("LMDeploy",) if usual else ())) if self._common else ()
        return (*served, "GPTQModel", "transformers (with GPTQModel installed)")

    @property
    def limits(self) -> tuple[str, ...]:
        """Which usual ones do not."""
        if self._common:
            return ()
        return ("vLLM since June 2026 reads GPTQ of 4 and 8 bits without zero points only",)

    @property
    def _common(self) -> bool:
        return self.spec.symmetric and self.spec.bits in VLLM_WIDTHS

    def holds(self, outputs: int, inputs: int) -> bool:
        """Whether groups and words are whole."""
        sizes = inputs * self.spec.bits, outputs * self.spec.bits
        return self.spec.fits(inputs) and all(size % WORD_BITS == 0 for size in sizes)

    def parts(self, outputs: int, inputs: int) -> dict[str, Part]:
        """The tensors of a linear. A bias that the model does not have is one of zeros, which
        AutoGPTQ wrote; not every tool writes `g_idx`.
        """
        bits, groups = self.spec.bits, inputs // self.spec.group_of(inputs)
        return {
            "qweight": Part((stream_words(inputs, bits), outputs), WORDS),
            "qzeros": Part((groups, stream_words(outputs, bits)), WORDS),
            "scales": Part((groups, outputs), FLOATS),
            "g_idx": Part((inputs,), WORDS, optional=True),
            "bias": Part((outputs,), FLOATS, optional=True),
        }

    def of(self, name: str) -> "GptqLayout":
        """The layout of one linear, by the first pattern that matches."""
        found = (spec for pattern, spec in self.others if matches(pattern, name, DYNAMIC))
        return self.with_spec(next(found, self.spec))

    def with_spec(self, spec: QuantSpec) -> "GptqLayout":
        """The same for other codes."""
        return replace(self, spec=spec, others=())

    def skips(self, name: str) -> bool | None:  # noqa: ARG002 - as every layout
        """The config does not say."""
        return None

    def quantization_config(self, left: LeftOut, widths: Widths) -> dict[str, Any]:
        """`quantization_config` of config.json. `dynamic` rules that begin with a minus leave
        modules out, others say what is not as in the rest of it; a head is in floats when `lm_head`
        says so.
        """
        named = FORMATS[0] if self.minus_one else FORMATS[1]
        config: dict[str, Any] = {
            "quant_method": self.method,
            "bits": self.spec.bits,
            "group_size": self.spec.group_size,
            "sym": self.spec.symmetric,
            "desc_act": False,
            "static_groups": True,
            "lm_head": False,
            "checkpoint_format": named,
            "pack_dtype": "int32",
        }
        rules = [rf".*\.{re.escape(name)}$" for name in left.linears]
        rules += [rf"{re.escape(block)}\..*" for block in left.whole]
        rules += [_pattern(group) for group in left.groups]
        dynamic: dict[str, Any] = {f"{LEFT_OUT}{rule}": {} for rule in rules}
        for spec, groups in widths.items():
            if spec != self.spec:
                changed = {"bits": spec.bits, "group_size": spec.group_size, "sym": spec.symmetric}
                dynamic |= {f"{CHANGED}{_pattern(group)}": changed for group in groups}
        return config | ({"dynamic": dynamic} if dynamic else {})

    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """The tensors of a linear whose groups are neighbours."""
        bits, inputs = self.spec.bits, weight.codes.shape[1]
        return {
            "qweight": pack_stream(weight.codes, bits).t().contiguous(),
            "qzeros": self._pack_zeros(weight.zeros.t().contiguous()),
            "scales": weight.scales.t().to(torch.float16).contiguous(),
            "g_idx": torch.arange(inputs, dtype=torch.int32) // weight.group_size,
        }

    def unpack(self, tensors: Mapping[str, Tensor], inputs: int) -> QuantizedWeight:
        """Inverse of `pack`, whatever `g_idx` says."""
        zeros = self._unpack_zeros(tensors["qzeros"], tensors["scales"].shape[1])
        return QuantizedWeight(
            codes=unpack_stream(tensors["qweight"].t(), self.spec.bits, inputs),
            scales=tensors["scales"].t().contiguous(),
            zeros=zeros.t().contiguous(),
            spec=self.spec,
        )

    def _pack_zeros(self, zeros: UInt8[Tensor, "groups outputs"]) -> Int32[Tensor, "groups words"]:
        bits = self.spec.bits
        if self.minus_one and bits not in ONES:
            zeros = zeros - 1 & self.spec.max_code
        words = pack_stream(zeros, bits)
        # GPTQModel subtracts from words, so that a zero of 0 borrows from its neighbour.
        return words - ONES[bits] if self.minus_one and bits in ONES else words

    def _unpack_zeros(
        self, words: Int32[Tensor, "groups words"], outputs: int
    ) -> UInt8[Tensor, "groups outputs"]:
        bits = self.spec.bits
        if self.minus_one and bits in ONES:
            words = words + ONES[bits]
        zeros = unpack_stream(words, bits, outputs)
        return zeros + 1 & self.spec.max_code if self.minus_one and bits not in ONES else zeros


def read_quantization_config(config: Mapping[str, Any]) -> GptqLayout:
    """The layout that a `quantization_config` of method gptq describes; refuses other ones."""
    named = config.get("checkpoint_format") or config.get("format") or FORMATS[0]
    if named not in FORMATS:
        raise InputError(
            f"config.json: quantization_config: checkpoint_format is {named!r}, expected"
            f" {' or '.join(FORMATS)}",
            hint="save it again with GPTQModel as gptq",
        )
    _refuse_others(config)
    spec = _spec(config)
    return GptqLayout(spec, minus_one=named == "gptq", others=_others(config, spec))


def _pattern(group: Together) -> str:
    """What matches these linears, and what programs that fuse them make of them."""
    parents = {name.rpartition(".")[0] for name in group}
    names = [name.rpartition(".")[2] for name in group]
    fused = [FUSED[name] for name in names if name in FUSED and len(group) > 1]
    inner = "|".join(re.escape(name) for name in (*names, *fused))
    return rf"(?:{'|'.join(map(re.escape, sorted(parents)))})\.(?:{inner})$"


def _others(config: Mapping[str, Any], spec: QuantSpec) -> tuple[tuple[str, QuantSpec], ...]:
    """The rules of `dynamic` that give some linears another spec."""
    dynamic = config.get("dynamic") or {}
    if not _is_rules(dynamic):
        raise InputError(
            f"config.json: quantization_config: dynamic is {dynamic!r}, expected objects by pattern"
        )
    others = []
    for rule, changed in dynamic.items():
        if rule.startswith(LEFT_OUT[0]):
            continue
        pattern = rule.removeprefix(CHANGED)
        whole = {"bits": spec.bits, "group_size": spec.group_size, "sym": spec.symmetric} | changed
        check_pattern(pattern, DYNAMIC)
        others.append((pattern, _spec(whole)))
    return tuple(others)


def _spec(config: Mapping[str, Any]) -> QuantSpec:
    return QuantSpec(
        bits=one_of(config, "bits", WIDTHS),
        group_size=group_size(config, "group_size"),
        symmetric=flag(config, "sym"),
    )


def _refuse_others(config: Mapping[str, Any]) -> None:
    """Refuse what the tensors would not say."""
    if config.get("pack_dtype") not in (None, "int32"):
        raise InputError(
            f"config.json: quantization_config: pack_dtype is {config['pack_dtype']!r},"
            " expected 'int32'"
        )
    if flag(config, "lm_head"):
        raise InputError(
            "config.json: quantization_config: the head is quantized (`lm_head`); it is read"
            " in floats only",
            hint="quantize with lm_head=False",
        )


def _is_rules(dynamic: object) -> bool:
    return isinstance(dynamic, dict) and all(
        isinstance(rule, str) and isinstance(changed, dict) for rule, changed in dynamic.items()
    )
