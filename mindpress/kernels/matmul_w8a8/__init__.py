"""Products of int8 activations with int8 weights."""

from mindpress.kernels.matmul_w8a8.reference import matmul_w8a8_reference
from mindpress.kernels.matmul_w8a8.tiles import TileConfig, candidates, default_config
from mindpress.kernels.matmul_w8a8.weight import Int8Weight, quantize_weight

__all__ = [
    "Int8Weight",
    "TileConfig",
    "candidates",
    "default_config",
    "matmul_w8a8_reference",
    "quantize_weight",
]
