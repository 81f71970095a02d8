"""What ptxas makes of the kernels. Ceilings are what was found, and a little more."""

import pytest
from triton_aot import CAPABILITIES, SHARED_LIMIT, Compiled, Variant, compile_all

from mindpress.kernels.matmul_w4a16.regimes import TileConfig, candidates, default_config

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

FOLDER = "mindpress.kernels.matmul_w4a16"
ROWS = (8, 16, 32, 64, 256)
MAIN = (80, 86, 89, 90)
# Method and rows of a tile, type, group -> instructions of a lane per weight, on sm_90 and others.
CEILINGS = {
    ("codes", 8, "fp16", 128): (2.2, 2.2),
    ("codes", 8, "bf16", 128): (2.35, 2.65),
    ("codes", 8, "bf16", 32): (3.3, 3.6),
    ("codes", 16, "fp16", 128): (2.9, 2.5),
    ("codes", 16, "bf16", 128): (3.0, 2.9),
    ("centred", 32, "fp16", 128): (3.5, 4.3),
    ("centred", 32, "bf16", 128): (3.6, 4.6),
    ("rounded", 32, "fp16", 128): (4.2, 4.1),
    ("rounded", 64, "fp16", 128): (4.3, 5.4),
    ("rounded", 64, "bf16", 32): (5.1, 6.4),
    ("rounded", 128, "fp16", 128): (5.2, 7.2),
    ("rounded", 128, "bf16", 128): (5.2, 7.1),
}


def variant(
    capability: int, tile: TileConfig, kind: str = "fp16", group: int = 128, *, whole: bool = True
) -> Variant:
    constants: dict[str, object] = {
        "GROUP": group,
        "WHOLE": whole,
        "SPLIT": True,
        "BLOCK_ROWS": tile.block_rows,
        "BLOCK_OUTPUTS": tile.block_outputs,
        "INTERPRETED": False,
    }
    if tile.method != "codes":
        constants["ROUNDED"] = tile.method == "rounded"
    pointers = dict.fromkeys(("x", "y"), kind) | {"partials": "fp32"}
    pointers |= dict.fromkeys(("words", "scales", "arrived"), "i32")
    return Variant(
        f"{FOLDER}.kernel:{'matmul_codes' if tile.method == 'codes' else 'matmul_weights'}",
        capability,
        pointers,
        constants,
        integers=("rows", "outputs", "inputs", "padded", "blocks"),
        divisible=(*pointers, "outputs", "inputs", "padded"),
        warps=tile.warps,
        stages=tile.stages,
    )


def tiles(capability: int, rows: int, group: int = 128) -> set[TileConfig]:
    """Those of every size, without "dequantize", which is a kernel of its own."""
    # One output tile and one block of inputs: nothing is split, so only sizes differ.
    found = candidates(capability, rows, 8, 128, group)
    return {one for one in found if one.method != "dequantize"}


def default(capability: int, rows: int, group: int = 128) -> TileConfig:
    return default_config(capability, rows, 8, 128, group)


def variants() -> dict[str, Variant]:
    every = [variant(one, tile) for one in MAIN for rows in ROWS for tile in tiles(one, rows)]
    for one in (80, 90):
        every += [variant(one, default(one, rows), "bf16") for rows in (8, 16, 32, 256)]
        every += [variant(one, default(one, rows, 32), "bf16", 32) for rows in (8, 64)]
        every.append(variant(one, default(one, 8), whole=False))
    every += [variant(one, default(one, 8)) for one in set(CAPABILITIES) - set(MAIN)]
    return {name(one): one for one in every}


def name(one: Variant) -> str:
    size = f"{one.constants['BLOCK_OUTPUTS']}x{one.constants['BLOCK_ROWS']}"
    kind, group = one.pointers["x"], one.constants["GROUP"]
    ragged = "" if one.constants["WHOLE"] else "-ragged"
    return f"{one.capability}-{method(one)}-{size}-{one.warps}-{kind}-g{group}{ragged}"


def method(one: Variant) -> str:
    rounded = one.constants.get("ROUNDED")
    return {None: "codes", False: "centred", True: "rounded"}[rounded]


def dequantizing() -> dict[str, Variant]:
    return {
        f"{one}-dequantize": Variant(
            f"{FOLDER}.dequantize.kernel:dequantize",
            one,
            {"words": "i32", "scales": "i32", "weight": "fp16"},
            {"GROUP": 128, "WHOLE": True, "BLOCK_OUTPUTS": 32},
            integers=("first_output", "end_output", "inputs", "padded"),
            divisible=("words", "scales", "weight", "inputs", "padded"),
        )
        for one in (80, 90)
    }


@pytest.fixture(scope="module")
def made() -> dict[str, Compiled]:
    wanted = variants() | dequantizing()
    return dict(zip(wanted, compile_all(list(wanted.values())), strict=True))


EVERY = pytest.mark.parametrize("which", variants())


@EVERY
def test_registers_and_shared_memory_suffice(made, which):
    one = made[which]
    assert one.spilled == 0
    assert one.registers <= 255
    assert one.shared <= SHARED_LIMIT[one.variant.capability]


@EVERY
def test_tensor_cores_multiply(made, which):
    one = made[which]
    wide = one.variant.capability == 90 and one.variant.constants["BLOCK_OUTPUTS"] == 128
    assert one.count("HGMMA" if wide else "HMMA") >= 16 // (1 + (one.variant.warps == 8))


@EVERY
def test_weights_are_loaded_by_16_bytes(made, which):
    one = made[which]
    lanes, stages = 32 * one.variant.warps, one.variant.stages
    words = stages * one.variant.constants["BLOCK_OUTPUTS"] * 16 // lanes
    # Narrower loads are those of scales, and of x; of words there would be more.
    narrow = [opcode for opcode in one.opcodes if opcode.startswith("LDG") and "DEP" not in opcode]
    assert one.count("LDGSTS.E.BYPASS.128", "LDG.E.128") >= words // 4
    assert sum(opcode.endswith(("LDGSTS.E", "LDG.E")) for opcode in narrow) < words
    assert sum(".64" in opcode for opcode in narrow) < words // 2


@EVERY
def test_instructions_per_weight(made, which):
    one = made[which]
    constants = one.variant.constants
    kind, group = one.variant.pointers["x"], constants["GROUP"]
    found = one.per_item(constants["BLOCK_OUTPUTS"] * 128)
    key = method(one.variant), constants["BLOCK_ROWS"], kind, group
    assert found < CEILINGS[key][one.variant.capability != 90]


def test_dequantized_weights_are_read_and_written_by_16_bytes(made):
    for which in dequantizing():
        one = made[which]
        assert one.spilled == 0
        assert one.count("LDG.E.128") == 1
        assert one.count("STG.E.128") == 4
        # A program has 32 x 128 weights; memory takes as long as about 19 instructions for each.
        assert len(one.opcodes) * 32 * 4 / (32 * 128) < 19
