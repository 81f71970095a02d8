"""What a `quantization_config` says of the activations that linears read.

Source: compressed-tensors 0.12, quantization/quant_args.py; vLLM 0.11, CompressedTensorsW8A8Int8.
"""

from collections.abc import Mapping
from typing import Any, Literal

from mindpress.errors import InputError

Activations = Literal["per token"]
PER_TOKEN = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
    "actorder": None,
}


def read_activations(config: Mapping[str, Any]) -> Activations | None:
    """`per token`: rounded to int8 while the model runs, symmetric, a scale for each token.

    None where they stay as they are, or are rounded in a way that no kernel of ours knows (static
    ranges, floats of 8 bits); then they stay as they are, too. InputError where modules differ.
    """
    groups = config.get("config_groups")
    if config.get("quant_method") != "compressed-tensors" or not isinstance(groups, dict):
        return None
    found = {_per_token(group) for group in groups.values()}
    if len(found) > 1:
        raise InputError(
            "config.json: quantization_config: config_groups round the activations of some modules"
            " per token and those of others not",
            hint="quantize with one scheme; modules in `ignore` stay in floats",
        )
    return "per token" if found == {True} else None


def _per_token(group: object) -> bool:
    """Keys that are left out mean int, symmetric, static and one scale for the whole tensor."""
    inputs = group.get("input_activations") if isinstance(group, dict) else None
    return (
        isinstance(inputs, dict)
        and inputs.get("num_bits") == 8
        and inputs.get("type", "int") == "int"
        and inputs.get("strategy") == "token"
        and inputs.get("dynamic") is True
        and inputs.get("symmetric", True) is True
    )
