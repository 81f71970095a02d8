"""Root mean square norms: alone, after a residual sum, and with int8 codes as their result."""

from mindpress.kernels.rms_norm.reference import (
    add_rms_norm_int8_reference,
    add_rms_norm_reference,
    rms_norm_int8_reference,
    rms_norm_reference,
)

__all__ = [
    "add_rms_norm_int8_reference",
    "add_rms_norm_reference",
    "rms_norm_int8_reference",
    "rms_norm_reference",
]
