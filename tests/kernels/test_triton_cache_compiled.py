"""What the compiler makes of the kernels of paged caches, for GPUs that are not here.

Ceilings are what was found (Triton 3.9) and a twentieth more.
"""

import pytest

pytest.importorskip("triton", reason="no Triton")

from triton_aot import SHARED_LIMIT, Compiled, Variant, compile_all

from mindpress.kernels.cache_attention.launch import AttendShape, default_config

KERNELS = "mindpress.kernels."
GROUP, KV_HEADS, PAGE = 4, 8, 64
WORDS = {16: "fp16", 8: "i32", 4: "i32"}
# Instructions of a lane for each byte of keys and values, where all of a block is seen: of bits,
# channels and capability. An H200 can issue 7.9 at the speed of its memory.
PER_BYTE = {
    (16, 128, 80): 1.1, (16, 128, 90): 1.25, (16, 64, 86): 1.8,
    (8, 128, 80): 4.1, (8, 128, 90): 3.55, (8, 64, 90): 5.0,
    (8, 128, 100): 4.75, (8, 128, 120): 3.25,
    (4, 128, 80): 7.9, (4, 128, 90): 7.15, (4, 64, 89): 10.0,
}  # fmt: skip


def attend_of(bits: int, channels: int, capability: int, rows: int = 1, kind: str = "") -> Variant:
    """The default for `rows` rows of a sequence; `kind`: "channel", "symmetric", "window cap"."""
    shape = AttendShape(bits, channels, PAGE, GROUP, KV_HEADS, 1, rows, 8192)
    config = default_config(capability, shape)
    fixed = "channel" in kind
    pointers = dict.fromkeys(("query", "mixed"), "bf16") | dict.fromkeys(("sums", "states"), "fp32")
    pointers |= dict.fromkeys(("keys", "values"), WORDS[bits])
    pointers |= dict.fromkeys(("value_scales", "value_lows"), "fp16")
    pointers |= dict.fromkeys(("key_scales", "key_lows"), "fp32" if fixed else "fp16")
    pointers |= dict.fromkeys(("starts", "lengths", "table"), "i32")
    constants = {"KV_HEADS": KV_HEADS, "GROUP": GROUP, "CHANNELS": channels, "PADDED": channels}
    constants |= {"PAGE": PAGE, "BITS": bits, "CAPPED": "cap" in kind, "WINDOWED": "window" in kind}
    constants |= {"KEY_FIXED": fixed, "KEY_VARY": fixed, "VALUE_FIXED": False, "VALUE_VARY": False}
    constants |= dict.fromkeys(("KEY_LOWS", "VALUE_LOWS"), "symmetric" not in kind)
    constants |= {"BLOCK": config.block, "ROWS": config.rows, "FOLD": config.fold}
    constants |= {"STAGES": config.stages, "SPLIT": config.parts > 1, "INTERPRETED": False}
    return Variant(
        KERNELS + "cache_attention.kernel:attend_kernel",
        capability,
        pointers,
        constants,
        integers=("window", "most_pages", "members"),
        floats=("scale", "cap"),
        warps=config.warps,
        stages=config.stages,
    )


def merge_of(capability: int) -> Variant:
    constants = {"HEADS": 32, "CHANNELS": 128, "PADDED": 128, "PARTS": 33, "PADDED_PARTS": 64}
    pointers = dict.fromkeys(("sums", "states"), "fp32") | {"mixed": "bf16"}
    pointers |= dict.fromkeys(("starts", "lengths"), "i32")
    kernel = KERNELS + "cache_attention.kernel:merge_kernel"
    return Variant(kernel, capability, pointers, constants, integers=("members",))


def pages_of(bits: int) -> tuple[dict[str, str], dict[str, object]]:
    """Pointers and constants of writing values by channel, keys by token."""
    pointers, constants = {"slots": "i64"}, {"PAGE": PAGE, "BITS": bits, "KV_HEADS": KV_HEADS}
    constants |= {"CHANNELS": 128, "HALF": 64}
    for name in ("key", "value"):
        pointers[f"{name}_data"] = "fp16" if bits == 16 else "u8"
        pointers |= {f"{name}_scales": "fp16", f"{name}_lows": "fp16"}
        upper = name.upper()
        constants |= {f"{upper}_FIXED": False, f"{upper}_VARY": False, f"{upper}_LOWS": bits < 16}
    return pointers, constants | {"KEY_BY_CHANNEL": False, "VALUE_BY_CHANNEL": True}


def write_of(bits: int, capability: int) -> Variant:
    pointers, constants = pages_of(bits)
    return Variant(
        KERNELS + "cache_write.kernel:write_kernel",
        capability,
        {"keys": "bf16", "values": "bf16", **pointers},
        {"VALUES": True, **constants},
        integers=("rows", "key_stride", "value_stride"),
        warps=1,
    )


def rotary_of(bits: int, capability: int) -> Variant:
    pointers, constants = pages_of(bits)
    tables = dict.fromkeys(("cosines", "sines"), "fp32")
    return Variant(
        KERNELS + "rotary_write.kernel:rotary_write_kernel",
        capability,
        {"fused": "bf16", "query": "bf16", "weights": "bf16", **tables, **pointers},
        {"HEADS": KV_HEADS * GROUP, "ROTARY": 128, "NORMED": True, **constants},
        integers=("rows",),
        floats=("eps",),
        warps=1,
    )


DECODE = {f"decode-{b}-{c}-{each}": attend_of(b, c, each) for b, c, each in PER_BYTE}
PROMPTS = {f"prompt-{b}-{each}": attend_of(b, 128, each, rows=512) for b, each in (
    (16, 80), (8, 80), (8, 90), (4, 90),
)}  # fmt: skip
OTHERS = {"decode-window-cap": attend_of(8, 128, 90, kind="window cap")}
OTHERS |= {"decode-channel": attend_of(8, 128, 80, kind="channel")}
SMALL = {f"merge-{each}": merge_of(each) for each in (80, 90)}
SMALL |= {f"write-{bits}-{each}": write_of(bits, each) for bits, each in ((4, 80), (8, 90))}
SMALL |= {f"rotary-{bits}-{each}": rotary_of(bits, each) for bits, each in ((4, 90), (16, 80))}
ATTEND = DECODE | PROMPTS | OTHERS
ALL = ATTEND | SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made() -> dict[str, Compiled]:
    return dict(zip(ALL, compile_all(list(ALL.values())), strict=True))


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_spilled_and_all_fits(made, name):
    one = made[name]
    assert one.spilled == 0
    assert 0 < one.registers <= (96 if name in SMALL else 255)
    assert one.shared <= SHARED_LIMIT[one.variant.capability]


@pytest.mark.parametrize("name", ATTEND)
def test_attention_runs_on_tensor_cores_from_loads_of_16_bytes(made, name):
    one = made[name]
    assert one.count({90: "HGMMA", 100: "UTCHMMA"}.get(one.variant.capability, "HMMA")) > 0
    copies = [opcode for opcode in one.opcodes if opcode.startswith("LDGSTS")]
    sizes = one.variant.constants
    block = sizes["BLOCK"] * sizes["CHANNELS"] * 2 * sizes["BITS"] // 8
    # Of a block of keys and values, as each thread copies it.
    assert (
        sum(opcode.endswith(".128") for opcode in copies) >= block // 16 // 32 // one.variant.warps
    )


@pytest.mark.parametrize(("bits", "channels", "capability"), PER_BYTE)
def test_decoding_takes_few_instructions_for_each_byte(made, bits, channels, capability):
    one = made[f"decode-{bits}-{channels}-{capability}"]
    found = per_byte(one)
    ceiling = PER_BYTE[bits, channels, capability]
    assert ceiling / 1.25 < found <= ceiling


def per_byte(one: Compiled) -> float:
    """Of the loop over blocks that are seen whole: the shorter of the two that multiply."""
    loops = [loop for loop in one.loops if len(loop) > 100]
    sizes = one.variant.constants
    block = sizes["BLOCK"] * sizes["CHANNELS"] * 2 * sizes["BITS"] / 8
    return min(len(loop) for loop in loops) * 32 * one.variant.warps / block
