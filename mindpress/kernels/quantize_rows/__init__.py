"""Activations as int8 codes with a scale for each row (token)."""

from mindpress.kernels.quantize_rows.reference import quantize_rows_reference
from mindpress.kernels.quantize_rows.rows import Int8Rows

__all__ = ["Int8Rows", "quantize_rows_reference"]
