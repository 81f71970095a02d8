"""How the product is cut into programs. Nothing here needs Triton."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

# Bytes of shared memory a program can ask for, and multiprocessors, by compute capability (of the
# largest usual card: A100, A10, L40S, H200, B200, RTX 5090). Unknown ones are taken for an A10.
SHARED = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
PROCESSORS = {80: 108, 86: 84, 89: 142, 90: 132, 100: 148, 120: 170}
USUAL = 86
DECODE_ROWS = 16  # the least a tensor core multiplies at a time
SPLITS = (1, 2, 4, 8, 16)
MOST_SUMS = 2**16  # of all parts of a tile, which one program loads at once: more of them spill
WGMMA = (90,)  # capabilities whose tensor cores take 64 rows and more from shared memory


@dataclass(frozen=True, slots=True)
class TileConfig:
    """One program: a tile of `block_rows` x `block_outputs`, `block_inputs` at a time.

    `split` programs share the inputs of a tile and add up what they found. `group` tiles of rows
    use the same weights one after the other.
    """

    block_rows: int
    block_outputs: int
    block_inputs: int
    split: int = 1
    warps: int = 4
    stages: int = 4
    group: int = 8

    @property
    def shared(self) -> int:
        """Bytes of shared memory, at most: the codes of all stages."""
        return self.stages * (self.block_rows + self.block_outputs) * self.block_inputs

    def tiles(self, rows: int, outputs: int) -> int:
        """Tiles of the result."""
        return -(-rows // self.block_rows) * -(-outputs // self.block_outputs)

    def partials(self, rows: int, outputs: int) -> int:
        """Sums (int32) kept between the programs that share a tile."""
        sizes = self.split * self.block_rows * self.block_outputs
        return self.tiles(rows, outputs) * sizes if self.split > 1 else 0


def default_config(capability: int, rows: int, outputs: int, inputs: int) -> TileConfig:
    """What should be good without a measurement: derived from compiled code, not timed.

    Few rows wait for memory, so there are two programs for each multiprocessor, if need be by
    `split`; many wait for the tensor cores, and their tiles are as large as registers allow and
    there is work for everybody.
    """
    processors = PROCESSORS.get(capability, PROCESSORS[USUAL])
    *large, least = _usual(capability, rows)
    for config in large:
        if config.tiles(rows, outputs) >= processors:
            return config
    return _split(least, 2 * processors, rows, outputs, inputs)


def _usual(capability: int, rows: int) -> tuple[TileConfig, ...]:
    """Tiles for so many rows, large ones first."""
    if rows <= DECODE_ROWS:
        return (TileConfig(16, 64, 256),)
    if rows <= 2 * DECODE_ROWS:
        return (TileConfig(32, 64, 256, stages=3),)
    middle = TileConfig(64, 128, 128, stages=4 if capability in WGMMA else 3)
    if rows <= 128:
        return (middle,)
    if capability in WGMMA:
        return (TileConfig(128, 256, 128, warps=8), TileConfig(128, 128, 128, warps=8), middle)
    if capability == 80:
        large = TileConfig(128, 256, 64, warps=8), TileConfig(128, 128, 128, warps=8, stages=3)
        return (*large, middle)
    return (TileConfig(128, 128, 64, warps=8), middle)


def _split(config: TileConfig, programs: int, rows: int, outputs: int, inputs: int) -> TileConfig:
    """As few parts as give so many programs, each of two blocks or more."""
    tiles, blocks = config.tiles(rows, outputs), -(-inputs // config.block_inputs)
    sums = config.block_rows * config.block_outputs
    fits = [split for split in SPLITS if split * sums <= MOST_SUMS]
    possible = [split for split in fits if split == 1 or 2 * split <= blocks]
    enough = [split for split in possible if tiles * split >= programs]
    return replace(config, split=min(enough, default=max(possible)))


def candidates(capability: int, rows: int, outputs: int, inputs: int) -> tuple[TileConfig, ...]:
    """What a tuner should time, the default first; all fit the shared memory."""
    limit = SHARED.get(capability, SHARED[USUAL])
    found = dict.fromkeys([default_config(capability, rows, outputs, inputs)])
    for config in _shapes(rows):
        blocks = -(-inputs // config.block_inputs)
        sums = config.split * config.block_rows * config.block_outputs
        if config.shared <= limit and config.split <= blocks and sums <= MOST_SUMS:
            found[config] = None
    return tuple(found)


def _shapes(rows: int) -> Iterator[TileConfig]:
    """Tiles that compile without spilling (tests/kernels/test_triton_glue_compiled.py)."""
    if rows <= 2 * DECODE_ROWS:
        high = 16 if rows <= DECODE_ROWS else 32
        for wide, deep, split, stages in product((32, 64, 128), (128, 256), SPLITS, (3, 4)):
            yield TileConfig(high, wide, deep, split, 4, stages)
        return
    for (high, wide, warps), split, stages in product(
        ((64, 64, 4), (64, 128, 4), (128, 128, 8)), SPLITS, (3, 4)
    ):
        if high < 2 * rows:
            yield TileConfig(high, wide, 128, split, warps, stages)
    if rows > 64:
        for deep, stages in product((64, 128), (3, 4)):  # too large to add up parts of
            yield TileConfig(128, 256, deep, 1, 8, stages)
