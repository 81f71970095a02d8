"""`quantization_config` of config.json -> the layout of the linears beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mindpress.checkpoint.reader import FLOATS
from mindpress.errors import InputError
from mindpress.formats import awq, compressed_tensors, gptq
from mindpress.formats.layout import WORDS, Layout, Part
from mindpress.formats.quantized import QuantizedWeight, QuantSpec


@dataclass(frozen=True, slots=True)
class AwqLayout:
    """`mindpress.formats.awq` as one of several layouts."""

    spec: QuantSpec
    label: str = "AWQ gemm"
    index: str | None = None

    def holds(self, outputs: int, inputs: int) -> bool:
        """Whether groups and words are whole."""
        return awq.holds(outputs, inputs, self.spec)

    def parts(self, outputs: int, inputs: int) -> dict[str, Part]:
        """The tensors of a linear."""
        shapes = awq.packed_shapes(outputs, inputs, self.spec)
        return {
            part: Part(shape, FLOATS if part == "scales" else WORDS)
            for part, shape in shapes.items()
        }

    def skips(self, name: str) -> bool | None:  # noqa: ARG002 - as every layout
        """`modules_to_not_convert` holds pieces of names, read by every tool in its own way."""
        return None

    def unpack(self, tensors: Mapping[str, Tensor], inputs: int) -> QuantizedWeight:  # noqa: ARG002
        """The weight in these parts."""
        return awq.unpack(tensors, self.spec)


def _awq(config: Mapping[str, Any]) -> Layout:
    return AwqLayout(awq.read_quantization_config(config))


METHODS: dict[str, Callable[[Mapping[str, Any]], Layout]] = {
    "awq": _awq,
    "gptq": gptq.read_quantization_config,
    "compressed-tensors": compressed_tensors.read_quantization_config,
}


def read_layout(config: object) -> Layout:
    """The layout that a `quantization_config` describes; InputError for one that is not read."""
    if not isinstance(config, dict):
        raise InputError(f"config.json: quantization_config is {config!r}, expected an object")
    method = config.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(
            f"config.json: quantization_config: method `{method}` cannot be read",
            hint=f"mindpress reads 16-bit folders, and those of {', '.join(METHODS)}",
        )
    return METHODS[method](config)
