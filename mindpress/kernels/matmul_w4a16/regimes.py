"""Which kernel multiplies how many rows, in tiles of which size.

Chosen from instructions per weight, registers and shared memory as `ptxas` reports them
(`tests/kernels/test_triton_w4a16_compiled.py` holds them); `candidates` is for a tuner that runs
on the GPU itself.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from mindpress.errors import ConfigError

Method = Literal["codes", "centred", "rounded", "dequantize"]

# Capability -> processors of the usual GPU that has it; a few more or fewer change little.
PROCESSORS = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}
BLOCK_INPUTS = 128
# From here on torch's product reads a dequantized weight often enough to be worth writing it.
DEQUANTIZE_ROWS = 257
MOST_PARTS = 16
# Warps that a processor needs to hide what it waits for; with fewer it is not faster.
ENOUGH_WARPS = 8


@dataclass(frozen=True, slots=True)
class TileConfig:
    """What a program multiplies: `block_rows` rows with `block_outputs` outputs, and of the inputs
    one of `split` parts.

    "codes": codes and zeros in the tensor core apart. "centred": code - zero there, scales in
    float32; both exact. "rounded": weights rounded to the type of x. "dequantize": the same, in
    memory, for torch's product; tiles do not matter.
    """

    method: Method
    block_rows: int = 16
    block_outputs: int = 64
    warps: int = 4
    stages: int = 3
    split: int = 1

    def tiles(self, rows: int, outputs: int) -> int:
        """Tiles of y, each with a counter where inputs are split."""
        return -(-rows // self.block_rows) * -(-outputs // self.block_outputs)

    def partial_sums(self, rows: int, outputs: int) -> int:
        """Float32 numbers that the parts of the inputs hand over."""
        return self.split * rows * outputs if self.split > 1 else 0


DEQUANTIZE = TileConfig("dequantize")
# Rows up to -> tiles, the first of which is the default. Few warps with few outputs each: they are
# too small for wgmma, which costs more instructions than it saves where 8 or 16 rows are.
MMA_TILES = {
    8: (
        TileConfig("codes", 8, 64, warps=2, stages=4),
        TileConfig("codes", 8, 32, warps=1, stages=4),
    ),
    16: (TileConfig("codes", 16, 64, warps=2, stages=3),),
    32: (
        TileConfig("centred", 32, 64, warps=4, stages=3),
        TileConfig("rounded", 32, 64, warps=2, stages=3),
    ),
    # Centred sums of 64 rows need as many instructions and a third more registers.
    64: (TileConfig("rounded", 64, 64, warps=4, stages=3),),
    256: (TileConfig("rounded", 128, 128, warps=8, stages=3), DEQUANTIZE),
}
WGMMA_TILES = MMA_TILES | {
    32: (
        TileConfig("centred", 32, 128, warps=4, stages=3),
        TileConfig("rounded", 32, 128, warps=4, stages=3),
    ),
    # Here they would need more registers than there are.
    64: (TileConfig("rounded", 64, 128, warps=4, stages=3),),
    # Two stages, so that a processor has room for two programs: one multiplies, one unpacks.
    256: (TileConfig("rounded", 128, 128, warps=8, stages=2), DEQUANTIZE),
}


@cache
def default_config(capability: int, rows: int, outputs: int, inputs: int, group: int) -> TileConfig:
    """The tiles for x of [rows, inputs]; `capability` as 90 for 9.0.

    Raises ConfigError for GPUs before 8.0.
    """
    tiles = _tiles(capability, rows, group)[0]
    if rows >= DEQUANTIZE_ROWS:
        return DEQUANTIZE
    return _split(capability, rows, outputs, inputs, tiles)


def candidates(
    capability: int, rows: int, outputs: int, inputs: int, group: int
) -> tuple[TileConfig, ...]:
    """What a tuner should time, the default first: every kind of tile, in half as many, as many
    and twice as many parts."""
    found = [default_config(capability, rows, outputs, inputs, group)]
    for tiles in _tiles(capability, rows, group):
        usual = _split(capability, rows, outputs, inputs, tiles)
        most = 1 if tiles is DEQUANTIZE else min(MOST_PARTS, -(-inputs // BLOCK_INPUTS))
        splits = (usual.split, usual.split // 2, usual.split * 2)
        found += [replace(usual, split=split) for split in splits if 1 <= split <= most]
    return tuple(dict.fromkeys(found))


def _tiles(capability: int, rows: int, group: int) -> list[TileConfig]:
    if capability < min(PROCESSORS):
        raise ConfigError(
            f"the GPU kernels need compute capability 8.0, this GPU has {capability / 10:.1f}",
            hint="use --kernels reference",
        )
    by_rows = WGMMA_TILES if capability // 10 == 9 else MMA_TILES
    fitting = by_rows[next((most for most in by_rows if rows <= most), max(by_rows))]
    # Scales of sums are rows / group instructions per weight, of weights half of one.
    return [one for one in fitting if one.method != "centred" or 2 * one.block_rows <= group]


def _split(capability: int, rows: int, outputs: int, inputs: int, tiles: TileConfig) -> TileConfig:
    """`tiles` with the parts that keep the busiest processor busy for the shortest time."""
    if tiles is DEQUANTIZE:
        return tiles
    processors = PROCESSORS[max(known for known in PROCESSORS if known <= capability)]
    blocks, count = -(-inputs // BLOCK_INPUTS), tiles.tiles(rows, outputs)

    def turns(split: int) -> int:
        programs = -(-count * split // processors)
        # A program costs about a turn more than those of its loop, and one for partial sums.
        own = -(-blocks // split) + 1 + (split > 1)
        return own * max(programs, ENOUGH_WARPS // tiles.warps)

    return replace(tiles, split=min(range(1, min(MOST_PARTS, blocks) + 1), key=turns))
