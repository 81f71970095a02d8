"""Turn queries and keys by their positions, and store keys and values."""

from mindpress.kernels.rotary_write.reference import HeadNorm, rotate_and_write_reference

__all__ = ["HeadNorm", "rotate_and_write_reference"]
