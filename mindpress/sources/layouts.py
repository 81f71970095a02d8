"""`quantization_config` of config.json -> the layout of the linears beside it."""

from collections.abc import Callable, Mapping
from typing import Any

from mindpress.errors import InputError
from mindpress.formats import awq, compressed_config, gptq
from mindpress.formats.layout import Layout


def _awq(config: Mapping[str, Any]) -> Layout:
    return awq.AwqLayout(awq.read_quantization_config(config))


METHODS: dict[str, Callable[[Mapping[str, Any]], Layout]] = {
    "awq": _awq,
    "gptq": gptq.read_quantization_config,
    "compressed-tensors": compressed_config.read_quantization_config,
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
