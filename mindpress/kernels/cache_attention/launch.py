"""How attention over pages is cut into programs. Nothing here needs Triton."""

from dataclasses import dataclass

# Multiprocessors by compute capability (A100, A10, L40S, H200, B200, RTX 5090).
PROCESSORS = {80: 108, 86: 84, 89: 142, 90: 132, 100: 148, 120: 170}
USUAL = 86
MOST_ROWS_FOLDED = 32
FEWEST_ROWS = 16  # the least a tensor core multiplies at a time
WIDE = 128  # channels from which on a program needs more warps
TENSOR_MEMORY = (100, 103)  # capabilities where sums do not lie in registers
MOST_PARTS = 64


@dataclass(frozen=True, slots=True)
class AttendConfig:
    """One program: `rows` query rows x heads of a group, `block` positions at a time.

    `parts` programs share the past of the same rows.
    """

    rows: int
    block: int
    warps: int = 4
    stages: int = 2
    parts: int = 1

    @property
    def fold(self) -> int:
        """Rows that weights are summed to before the end: those that lie in different threads.

        Many query rows leave no registers for that.
        """
        return 1 if self.rows > MOST_ROWS_FOLDED else min(self.block, 16 * self.warps)


@dataclass(frozen=True, slots=True)
class AttendShape:
    """What a launch is for. `longest` counts the positions that can be seen: at most a window."""

    bits: int
    channels: int
    page: int
    group: int
    kv_heads: int
    sequences: int
    most_rows: int
    longest: int

    def tiles(self, rows: int) -> int:
        """Programs of a part: every sequence may have as many rows as the longest."""
        return -(-self.most_rows * self.group // rows) * self.kv_heads * self.sequences


def default_config(capability: int, shape: AttendShape) -> AttendConfig:
    """What should be good without a measurement: derived from compiled code, not timed.

    Decoding waits for memory: two programs for each multiprocessor, if need be by parts of two
    blocks or more. Prompts have as many rows as fit the registers.
    """
    codes, wide = shape.bits < 16, shape.channels > WIDE
    most = 32 if codes or wide else 64
    rows = FEWEST_ROWS
    while rows < min(most, shape.most_rows * shape.group):
        rows *= 2
    block = max(shape.page, 128 if codes else 64)
    warps = 8 if wide or rows > FEWEST_ROWS or (codes and capability in TENSOR_MEMORY) else 4
    # A block of floats is as large as the shared memory of small cards.
    stages = 1 if not codes and block * shape.channels > WIDE * 128 else 2
    wanted = 2 * PROCESSORS.get(capability, PROCESSORS[USUAL])
    parts = min(wanted // shape.tiles(rows), shape.longest // (2 * block), MOST_PARTS)
    return AttendConfig(rows, block, warps, stages, max(1, parts))
