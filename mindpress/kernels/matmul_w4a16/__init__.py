"""Products of float activations with weights of 4 bits."""

from mindpress.kernels.matmul_w4a16.cpu import matmul
from mindpress.kernels.matmul_w4a16.packed import PackedWeight, pack_weight

__all__ = ["PackedWeight", "matmul", "pack_weight"]
