"""Which configuration of a Triton kernel is the fastest for a device, a shape and so many rows."""

from mindpress.kernels.tuning.key import Key, bucket
from mindpress.kernels.tuning.table import Table, known_table

__all__ = ["Key", "Table", "bucket", "known_table"]
