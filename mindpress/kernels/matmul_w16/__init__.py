"""Products of float32 rows and weights that stay in 16 bits, on the CPU."""

from mindpress.kernels.matmul_w16.cpu import matmul_w16_cpu

__all__ = ["matmul_w16_cpu"]
