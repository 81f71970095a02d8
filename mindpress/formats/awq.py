"""The AWQ "gemm" layout of AutoAWQ, which vLLM, LMDeploy and transformers read.

A linear of [out, in] is stored transposed: `qweight` int32 [in, out / 8], `qzeros` int32
[in / g, out / 8], `scales` float16 [in / g, out]. Nibble k of a word belongs to output channel
8 c + (0, 2, 4, 6, 1, 3, 5, 7)[k].
Source: AutoAWQ 0.2.9, awq/modules/linear/gemm.py and awq/utils/packing_utils.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from mindpress.errors import InputError
from mindpress.formats.layout import WORDS, LeftOut, Part, Widths
from mindpress.formats.packing import (
    AWQ_ORDER,
    AWQ_ORDER_8BIT,
    WORD_BITS,
    pack_words,
    unpack_words,
)
from mindpress.formats.quantized import WHOLE_ROW, QuantizedWeight, QuantSpec

ORDERS = {4: AWQ_ORDER, 8: AWQ_ORDER_8BIT}
SUFFIXES = ("qweight", "qzeros", "scales")
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
COMMON_BITS = 4
LMDEPLOY_GROUP = 128


@dataclass(frozen=True, slots=True)
class AwqLayout:
    """The layout of one folder."""

    spec: QuantSpec
    method: str = "awq"
    label: str = "AWQ gemm"
    index: str | None = None
    written: tuple[str, ...] = SUFFIXES

    @property
    def readers(self) -> tuple[str, ...]:
        """Programs that read such a folder."""
        if self.spec.bits != COMMON_BITS:
            return ("vLLM",)
        lmdeploy = ("LMDeploy",) if self.spec.group_size == LMDEPLOY_GROUP else ()
        return ("vLLM", *lmdeploy, "transformers (with its AWQ kernels installed)")

    @property
    def limits(self) -> tuple[str, ...]:
        """Which usual ones do not."""
        if self.spec.bits != COMMON_BITS:
            return (f"{self.spec.bits}-bit AWQ folders are read by vLLM, not by LMDeploy",)
        if self.spec.group_size != LMDEPLOY_GROUP:
            return (f"LMDeploy reads groups of {LMDEPLOY_GROUP} only; vLLM reads this one too",)
        return ()

    def holds(self, outputs: int, inputs: int) -> bool:
        """Whether groups and words are whole."""
        return holds(outputs, inputs, self.spec)

    def parts(self, outputs: int, inputs: int) -> dict[str, Part]:
        """The tensors of a linear."""
        shapes = packed_shapes(outputs, inputs, self.spec)
        return {
            part: Part(shape, FLOATS if part == "scales" else WORDS)
            for part, shape in shapes.items()
        }

    def of(self, name: str) -> "AwqLayout":  # noqa: ARG002 - as every layout
        """All linears have one width."""
        return self

    def with_spec(self, spec: QuantSpec) -> "AwqLayout":
        """The same for other codes."""
        return AwqLayout(spec)

    def skips(self, name: str) -> bool | None:  # noqa: ARG002 - as every layout
        """`modules_to_not_convert` holds pieces of names, read by every tool in its own way."""
        return None

    def quantization_config(self, left: LeftOut, widths: Widths) -> dict[str, Any]:  # noqa: ARG002
        """`quantization_config` of config.json; the head is never converted by its readers."""
        blocks = (f"{block}." for block in left.whole)
        singly = (name for group in left.groups for name in group)
        return quantization_config(self.spec, (*left.linears, *blocks, *singly))

    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """The tensors of a linear."""
        return pack(weight)

    def unpack(self, tensors: Mapping[str, Tensor], inputs: int) -> QuantizedWeight:  # noqa: ARG002
        """The weight in these parts."""
        return unpack(tensors, self.spec)


def holds(outputs: int, inputs: int, spec: QuantSpec) -> bool:
    """Whether a linear of [outputs, inputs] fits: whole groups and whole words."""
    return spec.fits(inputs) and outputs % (WORD_BITS // spec.bits) == 0


def pack(weight: QuantizedWeight) -> dict[str, Tensor]:
    """`qweight`, `qzeros` and `scales` of a linear."""
    bits = weight.spec.bits
    order = ORDERS[bits]
    return {
        "qweight": pack_words(weight.codes.t().contiguous(), bits, order),
        "qzeros": pack_words(weight.zeros.t().contiguous(), bits, order),
        "scales": weight.scales.t().to(torch.float16).contiguous(),
    }


def unpack(tensors: Mapping[str, Tensor], spec: QuantSpec) -> QuantizedWeight:
    """Inverse of `pack`."""
    order = ORDERS[spec.bits]
    return QuantizedWeight(
        codes=unpack_words(tensors["qweight"], spec.bits, order).t().contiguous(),
        scales=tensors["scales"].t().contiguous(),
        zeros=unpack_words(tensors["qzeros"], spec.bits, order).t().contiguous(),
        spec=spec,
    )


def packed_shapes(outputs: int, inputs: int, spec: QuantSpec) -> dict[str, tuple[int, int]]:
    """Shapes of the three tensors of a linear of [outputs, inputs]."""
    words = outputs // (WORD_BITS // spec.bits)
    groups = inputs // spec.group_of(inputs)
    return {"qweight": (inputs, words), "qzeros": (groups, words), "scales": (groups, outputs)}


def quantization_config(spec: QuantSpec, skipped: tuple[str, ...]) -> dict[str, Any]:
    """`quantization_config` of config.json.

    `zero_point` is true also for symmetric codes: their zeros are stored (as the middle code),
    because no loader of this layout reads a file without `qzeros`. `skipped` lists modules that
    stay in 16 bits.
    """
    config: dict[str, Any] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": spec.bits,
        "group_size": spec.group_size,
        "zero_point": True,
        "modules_to_not_convert": list(skipped) or None,
    }
    return config


def read_quantization_config(config: object) -> QuantSpec:
    """The spec that a `quantization_config` describes; refuses what this layout is not."""
    if not isinstance(config, dict):
        raise InputError(f"config.json: quantization_config is {config!r}, expected an object")
    method, version = config.get("quant_method"), str(config.get("version", "gemm")).lower()
    if method != "awq" or version != "gemm":
        raise InputError(
            f"config.json: quantization_config: method `{method}` version `{version}` cannot be"
            " read",
            hint="mindpress reads 16-bit folders, and AWQ folders of version gemm",
        )
    bits, group = config.get("bits"), config.get("group_size")
    if not _is_whole(bits) or bits not in ORDERS:
        raise InputError(f"config.json: quantization_config: bits is {bits!r}, expected 4 or 8")
    if not _is_whole(group) or (group < 1 and group != WHOLE_ROW):
        raise InputError(f"config.json: quantization_config: group_size is {group!r}")
    return QuantSpec(bits=bits, group_size=group)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
