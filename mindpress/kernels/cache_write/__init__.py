"""Quantize the keys or values of new tokens and store them."""

from mindpress.kernels.cache_write.reference import write_tokens

__all__ = ["write_tokens"]
