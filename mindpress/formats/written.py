"""The layouts that a run can write, by the name its user gives them."""

from collections.abc import Callable

from mindpress.errors import ConfigError
from mindpress.formats import awq, compressed_tensors, gptq
from mindpress.formats.layout import Layout
from mindpress.formats.quantized import QuantSpec

_WIDTHS = {
    "awq": tuple(awq.ORDERS),
    "gptq": gptq.WIDTHS,
    "compressed-tensors": compressed_tensors.WIDTHS["pack-quantized"],
    "int8": compressed_tensors.WIDTHS["int-quantized"],
}
_ONE_WIDTH = ("awq",)
_LAYOUTS: dict[str, Callable[[QuantSpec], Layout]] = {
    "awq": awq.AwqLayout,
    "gptq": lambda spec: gptq.GptqLayout(spec, minus_one=spec.symmetric),
    "compressed-tensors": compressed_tensors.CompressedLayout,
    "int8": lambda spec: compressed_tensors.CompressedLayout(
        spec, "int-quantized", activations="per token"
    ),
}


def wider_than(bits: int, name: str) -> tuple[int, ...]:
    """The widths that a folder of the format `name` holds beside `bits`."""
    return () if name in _ONE_WIDTH else tuple(wider for wider in _WIDTHS[name] if wider > bits)


def written_layout(name: str, spec: QuantSpec) -> Layout:
    """The layout `name` for codes of `spec`; ConfigError when it does not hold their width."""
    if name not in _LAYOUTS:
        raise ConfigError(
            f"--format {name}: not known", hint="use auto, awq, gptq or compressed-tensors"
        )
    if spec.bits not in _WIDTHS[name]:
        raise _too_narrow(name, spec.bits)
    return _LAYOUTS[name](spec)


def _too_narrow(name: str, bits: int) -> ConfigError:
    others = [other for other, widths in _WIDTHS.items() if bits in widths]
    *some, last = map(str, _WIDTHS[name])
    held = f"{', '.join(some)} or {last} bits"
    if others:
        return ConfigError(
            f"--w-bits {bits}: the format {name} holds {held}",
            hint=f"use --format {' or '.join(others)}, or --w-bits 4",
        )
    return ConfigError(
        f"--w-bits {bits}: no format holds it; {name} holds {held}", hint="use --w-bits 4"
    )
