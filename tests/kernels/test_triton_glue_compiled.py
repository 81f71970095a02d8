"""What the compiler makes of the kernels beside attention and 4-bit weights, for every GPU.

Ceilings are what was found (Triton 3.9) and a tenth more.
"""

import pytest

pytest.importorskip("triton", reason="no Triton")

from triton_aot import CAPABILITIES, SHARED_LIMIT, Variant, compile_all

from mindpress.kernels.matmul_w8a8 import TileConfig, candidates, default_config
from mindpress.kernels.sampling.reference import COLDEST

KERNELS = "mindpress.kernels."
MAIN = (80, 90)
ROWS = {"decode": 8, "middle": 64, "large": 4096}
OUTPUTS, INPUTS = 11008, 4096
# Instructions of a lane for each code of the weight that a program multiplies with its rows.
PER_WEIGHT = {
    ("decode", 80): 0.88, ("decode", 86): 0.88, ("decode", 89): 0.88,
    ("decode", 90): 0.88, ("decode", 100): 0.85, ("decode", 120): 0.76,
    ("middle", 80): 1.4, ("middle", 90): 0.92,
    ("large", 80): 2.25, ("large", 86): 3.05, ("large", 90): 1.01,
}  # fmt: skip
MULTIPLY = {("middle", 90): "IGMMA", ("large", 90): "IGMMA"}


def product_of(config: TileConfig, capability: int, whole: bool = True) -> Variant:
    pointers = {"x_ptr": "i8", "x_scales_ptr": "fp32", "weight_ptr": "i8"}
    pointers |= {"weight_scales_ptr": "fp32", "y_ptr": "fp16"}
    pointers |= {"partials_ptr": "i32", "counters_ptr": "i32"}
    return Variant(
        KERNELS + "matmul_w8a8.kernel:matmul_w8a8_kernel",
        capability,
        pointers,
        {
            "BLOCK_ROWS": config.block_rows,
            "BLOCK_OUTPUTS": config.block_outputs,
            "BLOCK_INPUTS": config.block_inputs,
            "SPLIT": config.split,
            "GROUP": config.group,
            "WHOLE_BLOCKS": whole,
        },
        integers=("rows", "outputs", "inputs"),
        divisible=(*pointers, "outputs", "inputs"),
        warps=config.warps,
        stages=config.stages,
    )


def quantize_of(block: int, whole: bool, capability: int, warps: int) -> Variant:
    pointers = {"x_ptr": "fp16", "codes_ptr": "i8", "scales_ptr": "fp32"}
    return Variant(
        KERNELS + "quantize_rows.kernel:quantize_rows_kernel",
        capability,
        pointers,
        {"BLOCK": block, "WHOLE_ROW": whole},
        integers=("inputs",),
        divisible=(*pointers, "inputs"),
        warps=warps,
        options={"enable_fp_fusion": False},
    )


def norm_of(block: int, add: bool, int8: bool, capability: int, warps: int) -> Variant:
    pointers = dict.fromkeys(("x_ptr", "residual_ptr", "total_ptr"), "fp16")
    pointers |= {"weight_ptr": "fp32", "y_ptr": "i8" if int8 else "fp16", "scales_ptr": "fp32"}
    return Variant(
        KERNELS + "rms_norm.kernel:rms_norm_kernel",
        capability,
        pointers,
        {"BLOCK": block, "ADD": add, "INT8": int8},
        integers=("channels",),
        floats=("eps",),
        divisible=(*pointers, "channels"),
        warps=warps,
        options={"enable_fp_fusion": not int8},
    )


def gate_of(activation: str, kind: str, capability: int) -> Variant:
    pointers = {"gate_up_ptr": kind, "y_ptr": kind}
    return Variant(
        KERNELS + "gated.kernel:gated_kernel",
        capability,
        pointers,
        {"ACTIVATION": activation, "BLOCK": 1024},
        integers=("channels",),
        divisible=(*pointers, "channels"),
    )


def sample_of(capability: int) -> Variant:
    pointers = dict.fromkeys(("temperature_ptr", "top_p_ptr", "min_p_ptr", "uniform_ptr"), "fp32")
    pointers |= {"logits_ptr": "fp32", "top_k_ptr": "i32", "tokens_ptr": "i64"}
    return Variant(
        KERNELS + "sampling.kernel:sample_kernel",
        capability,
        pointers,
        {"COLDEST": COLDEST, "BLOCK": 8192},
        integers=("vocab", "row_stride"),
        divisible=(*pointers, "vocab", "row_stride"),
        warps=16,
    )


PRODUCTS = {
    f"product-{kind}-{capability}": product_of(
        default_config(capability, ROWS[kind], OUTPUTS, INPUTS), capability
    )
    for kind, capability in PER_WEIGHT
}
# The largest of what a tuner may try, and inputs that end within a block.
EXTREMES = {
    f"product-{config.block_rows}x{config.block_outputs}-split{config.split}-{capability}": (
        product_of(config, capability, whole=False)
    )
    for capability, config in (
        (80, TileConfig(64, 128, 128, split=8, stages=3)),
        (80, TileConfig(128, 128, 128, split=4, warps=8, stages=3)),
        (80, TileConfig(32, 128, 256, split=16, stages=3)),
        (90, TileConfig(128, 128, 128, split=4, warps=8)),
    )
}
# 32 numbers for each thread: with 4 warps, 4096 in a row.
QUANTIZE = {f"quantize-4096-{each}": quantize_of(4096, True, each, 4) for each in CAPABILITIES}
QUANTIZE |= {"quantize-long-80": quantize_of(16384, False, 80, 16)}
NORMS = {f"norm-sum-{each}": norm_of(16384, True, False, each, 16) for each in MAIN}
NORMS |= {f"norm-int8-{each}": norm_of(16384, True, True, each, 16) for each in CAPABILITIES}
GATES = {f"silu-{each}": gate_of("silu", "fp16", each) for each in CAPABILITIES}
GATES |= {"gelu-80": gate_of("gelu", "fp16", 80)}
GATES |= {"gelu_tanh-90": gate_of("gelu_tanh", "bf16", 90)}
SAMPLE = {f"sample-{each}": sample_of(each) for each in CAPABILITIES}
ALL = PRODUCTS | EXTREMES | QUANTIZE | NORMS | GATES | SAMPLE

REGISTERS = {"quantize": 70, "norm": 95, "silu": 40, "gelu": 40, "sample": 128, "product": 255}


@pytest.fixture(scope="module")
def made():
    return dict(zip(ALL, compile_all(list(ALL.values())), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_nothing_is_spilled_and_all_fits(made, name):
    one = made[name]
    kind = next(kind for kind in REGISTERS if name.startswith(kind))
    assert one.spilled == 0
    assert 0 < one.registers <= REGISTERS[kind]
    assert one.shared <= SHARED_LIMIT[one.variant.capability]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "capability"), PER_WEIGHT)
def test_products_take_few_instructions_for_each_weight(made, kind, capability):
    one = made[f"product-{kind}-{capability}"]
    sizes = one.variant.constants
    found = one.per_item(sizes["BLOCK_OUTPUTS"] * sizes["BLOCK_INPUTS"])
    assert PER_WEIGHT[kind, capability] / 1.25 < found <= PER_WEIGHT[kind, capability]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCTS | EXTREMES)
def test_products_run_on_tensor_cores_from_loads_of_16_bytes(made, name):
    one = made[name]
    large = one.variant.capability == 90 and one.variant.constants["BLOCK_ROWS"] >= 64
    assert one.count("IGMMA" if large else "IMMA") > 0
    copies = [opcode for opcode in one.opcodes if opcode.startswith("LDGSTS")]
    assert copies
    assert all(".128" in opcode for opcode in copies)
    # Codes go from shared memory to the tensor cores as they are.
    assert not any(opcode.startswith("PRMT") for opcode in one.main_loop)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZE)
def test_products_of_quantization_are_rounded_before_codes(made, name):
    one = made[name]
    at_once = 2 if one.variant.capability == 100 else 1
    assert one.count("FMUL") * at_once >= 32
    assert one.count("FADD") * at_once >= 32
    assert one.count("FFMA") < 32  # those of two divisions


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZE | NORMS | GATES)
def test_rows_are_read_and_written_16_bytes_at_a_time(made, name):
    one = made[name]
    assert one.count("LDG.E.128") == one.count("LDG") > 0
    assert one.count("STG.E.128") >= one.count("STG") - 1 > 0 or name in GATES
    assert one.count("STG.E.128") > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_logits_are_read_16_bytes_at_a_time(made, name):
    one = made[name]
    assert one.count("LDG.E.128") == one.count("LDG") - 5  # the parameters
    one_pass = min(len(loop) for loop in one.loops)
    assert one_pass * 32 * one.variant.warps / one.variant.constants["BLOCK"] < 12


def test_a_tuner_tries_what_is_compiled_here():
    for capability, rows in ((80, 64), (80, 32), (80, 4096), (90, 4096)):
        found = candidates(capability, rows, OUTPUTS, INPUTS)
        tiles = {one: one.block_rows * one.block_outputs for one in found}
        largest = max(found, key=lambda one: (tiles[one] * one.split, tiles[one]))
        sizes = largest.block_rows, largest.block_outputs, largest.split
        assert sizes in {
            (
                one.constants["BLOCK_ROWS"],
                one.constants["BLOCK_OUTPUTS"],
                one.constants["SPLIT"],
            )
            for one in (PRODUCTS | EXTREMES).values()
        }
