"""What a configuration was tuned for. Cheap to import: no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """`device` as the driver names it; `group` is 0 where weights have no groups.

    `rows` is a bucket: one configuration serves all numbers of rows that round up to it.
    """

    device: str
    operation: str
    outputs: int
    inputs: int
    group: int
    dtype: str
    rows: int

    def __str__(self) -> str:
        """The key in the table: `NVIDIA H200/matmul_w4a16/4096x4096/g128/float16/16`."""
        shape = f"{self.outputs}x{self.inputs}/g{self.group}"
        return f"{self.device}/{self.operation}/{shape}/{self.dtype}/{self.rows}"


def bucket(rows: int) -> int:
    """The power of two that `rows` rounds up to, 4096 at most."""
    return min(4096, 1 << max(0, rows - 1).bit_length())
