"""The layouts of compressed-tensors, against words of its own tests and against their inverse."""

import pytest
import torch

from mindpress.errors import InputError
from mindpress.formats.compressed_config import read_quantization_config
from mindpress.formats.compressed_tensors import CompressedLayout
from mindpress.formats.quantized import QuantizedWeight, QuantSpec

WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
           "group_size": 128, "actorder": None, "dynamic": False}  # fmt: skip
GROUP = {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": None}
CONFIG = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": GROUP}, "kv_cache_scheme": None, "sparsity_config": {},
    "quantization_status": "compressed",
}  # fmt: skip


def configured(**changes) -> dict:
    """The config with changes in it, in its group, or in the weights of the group."""
    weights = {key: changes.pop(key) for key in list(changes) if key in WEIGHTS}
    group = {key: changes.pop(key) for key in list(changes) if key in GROUP}
    groups = {"group_0": {**GROUP, "weights": {**WEIGHTS, **weights}, **group}}
    return {**CONFIG, "config_groups": groups, **changes}


def random_weight(outputs: int, inputs: int, spec: QuantSpec) -> QuantizedWeight:
    groups, middle = inputs // spec.group_of(inputs), 2 ** (spec.bits - 1)
    zeros = torch.randint(0, spec.max_code + 1, (outputs, groups), dtype=torch.uint8)
    return QuantizedWeight(
        codes=torch.randint(0, spec.max_code + 1, (outputs, inputs), dtype=torch.uint8),
        scales=torch.rand(outputs, groups).bfloat16(),
        zeros=torch.full_like(zeros, middle) if spec.symmetric else zeros,
        spec=spec,
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("kind", "bits", "group"),
    [
        ("pack-quantized", 2, 20),
        ("pack-quantized", 3, 12),
        ("pack-quantized", 4, 20),
        ("pack-quantized", 8, -1),
        ("int-quantized", 8, -1),
    ],
)
@pytest.mark.parametrize("outputs", [1, 9, 32])
def test_unpack_undoes_pack(kind, bits, group, symmetric, outputs):
    layout = CompressedLayout(QuantSpec(bits, group, symmetric=symmetric), kind)
    weight = random_weight(outputs, 60, layout.spec)
    tensors = layout.pack(weight)
    parts = layout.parts(outputs, 60)
    assert tensors.keys() == {name for name, part in parts.items() if not part.optional}
    assert tensors.keys() == set(layout.written)
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) == parts[name].shape, name
        assert tensor.dtype in parts[name].dtypes, name
    back = layout.unpack(tensors, 60)
    for part in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(back, part), getattr(weight, part)), part


# compressed-tensors, tests/test_compressors/quantized_compressors/test_pack_quant.py; 2 and 3 bits:
# what `pack_to_int32` of 0.20 gave.
@pytest.mark.parametrize(
    ("bits", "values", "words"),
    [
        (4, [1], [9]),
        (4, [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4], [1985229328, 52137]),
        (2, [-2, -1, 0, 1, 1, 0, -1, -2, 1, 1, 1, 1, -2, -2, -2, -1, 1, 0], [1090460644, 11]),
        (
            3,
            [-4, -3, -2, -1, 0, 1, 2, 3, 3, 2, 1, 0, -1, -2, -3, -4, 3, 3, -4, 1, 0, 2, -3],
            [2012923528, 1245644089, 7],
        ),
        (8, [1, 2, 3, 4, -128, -127, -126, -125], [-2071756159, 50462976]),
    ],
)
def test_words_of_their_own_tests(bits, values, words):
    layout = CompressedLayout(QuantSpec(bits, -1, symmetric=True))
    tensors = {"weight_packed": torch.tensor([words], dtype=torch.int32),
               "weight_scale": torch.ones(1, 1)}  # fmt: skip
    found = layout.unpack(tensors, len(values))
    assert found.dequantize().tolist() == [values]
    assert layout.pack(found)["weight_packed"].tolist() == [words]


def test_zeros_are_packed_along_outputs():
    layout = CompressedLayout(QuantSpec(4, -1))
    values = [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4]
    tensors = {
        "weight_packed": torch.full((12, 1), 8, dtype=torch.int32),
        "weight_scale": torch.ones(12, 1),
        "weight_zero_point": torch.tensor([[1985229328], [52137]], dtype=torch.int32),
    }
    assert layout.unpack(tensors, 1).dequantize().flatten().tolist() == [-v for v in values]


def test_int8_weights_are_signed():
    layout = CompressedLayout(QuantSpec(8, -1, symmetric=True), "int-quantized")
    weight = torch.tensor([[-128, -1, 0, 127]], dtype=torch.int8)
    found = layout.unpack({"weight": weight, "weight_scale": torch.tensor([[0.5]])}, 4)
    assert found.dequantize().tolist() == [[-64, -0.5, 0, 63.5]]


def test_the_config_is_read():
    assert read_quantization_config(configured()) == CompressedLayout(
        QuantSpec(4, 128, symmetric=True), "pack-quantized", ("lm_head",)
    )
    rounded = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
    w8a8 = configured(num_bits=8, strategy="channel", group_size=None, format="int-quantized",
                      input_activations=rounded)  # fmt: skip
    found = read_quantization_config(w8a8)
    assert found.spec == QuantSpec(8, -1, symmetric=True)
    assert (found.kind, found.label) == (
        "int-quantized", "compressed-tensors int-quantized, int8 activations",
    )  # fmt: skip
    some = read_quantization_config(configured(targets=["re:.*mlp.*"]))
    assert some.skips("model.layers.0.self_attn.q_proj") is None


def test_which_modules_are_left_out():
    rules = ["lm_head", "model.layers.1.mlp.up_proj", "re:.*layers\\.0\\..*gate"]
    layout = read_quantization_config(configured(ignore=rules))
    assert layout.skips("model.layers.1.mlp.up_proj")
    assert layout.skips("model.layers.0.mlp.gate_proj")
    assert layout.skips("model.layers.10.mlp.up_proj") is False
    assert layout.skips("model.layers.1.mlp.gate_proj") is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "float-quantized"}, "format 'float-quantized' cannot be read"),
        ({"format": None}, "format is None"),
        ({"format": ["pack-quantized"]}, "cannot be read"),
        ({"num_bits": 5}, "num_bits is 5, expected 2, 3, 4 or 8"),
        ({"type": "float"}, "type 'float'"),
        ({"strategy": "tensor"}, "strategy is 'tensor'"),
        ({"group_size": None}, "group_size is None"),
        ({"symmetric": 1}, "symmetric is 1"),
        ({"weights": None}, "weights is None"),
        ({"config_groups": {}}, "config_groups is"),
        ({"config_groups": {"a": 1}}, "config_groups is"),
        ({"quantization_status": "frozen"}, "'frozen', expected 'compressed'"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme cannot be read"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config cannot be read"),
        ({"transform_config": {"config_groups": {}}}, "transform_config cannot be read"),
        ({"ignore": "lm_head"}, "ignore is 'lm_head'"),
        ({"ignore": ["re:("]}, "ignore: a pattern"),
    ],
)
def test_other_configs_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        read_quantization_config(configured(**changes))


def test_modules_that_are_quantized_differently_are_refused():
    other = {**GROUP, "weights": {**WEIGHTS, "num_bits": 8}}
    groups = {"config_groups": {"group_0": GROUP, "group_1": other}}
    with pytest.raises(InputError, match="in different ways"):
        read_quantization_config({**CONFIG, **groups})
    same = {"config_groups": {"group_0": GROUP, "group_1": {**GROUP, "format": "pack-quantized"}}}
    assert read_quantization_config({**CONFIG, **same}).spec.bits == 4


def test_a_pattern_without_an_end_is_refused():
    """Of the sort for which `re` tries every way to divide the name."""
    rule = r"re:(?=(.*)*(.*)*(.*)*(.*)*\1\2\3\4X)"
    layout = read_quantization_config(configured(ignore=[rule]))
    with pytest.raises(InputError, match="does not come to an end"):
        layout.skips("model." + "ab" * 400)


def test_a_module_has_the_scheme_that_its_own_program_finds_first():
    """Names before patterns, patterns in the order of their letters (`match_targets`, 0.19)."""

    def group(bits, *targets):
        return {**GROUP, "weights": {**WEIGHTS, "num_bits": bits}, "targets": list(targets)}

    name = "model.layers.0.mlp.down_proj"
    groups = {"a": group(4, "Linear"), "b": group(8, "re:.*mlp.*"), "c": group(2, "re:.*down_proj")}
    layout = read_quantization_config({**CONFIG, "config_groups": groups})
    assert layout.of(name).spec.bits == 2
    assert layout.of("model.layers.0.mlp.up_proj").spec.bits == 8
    assert layout.of("model.layers.0.self_attn.q_proj").spec.bits == 4
    groups["d"] = group(4, name)
    layout = read_quantization_config({**CONFIG, "config_groups": groups})
    assert layout.of(name).spec.bits == 4
