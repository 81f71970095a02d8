"""The GPTQ layout, against words that GPTQModel's code gives and against its own inverse."""

import pytest
import torch

from mindpress.errors import InputError
from mindpress.formats.gptq import GptqLayout, read_quantization_config
from mindpress.formats.quantized import QuantizedWeight, QuantSpec

CONFIG = {
    "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True,
    "lm_head": False, "checkpoint_format": "gptq", "pack_dtype": "int32", "dynamic": None,
}  # fmt: skip


def random_weight(outputs: int, inputs: int, spec: QuantSpec) -> QuantizedWeight:
    groups = inputs // spec.group_of(inputs)
    return QuantizedWeight(
        codes=torch.randint(0, spec.max_code + 1, (outputs, inputs), dtype=torch.uint8),
        scales=torch.rand(outputs, groups).half(),
        zeros=torch.randint(0, spec.max_code + 1, (outputs, groups), dtype=torch.uint8),
        spec=spec,
    )


@pytest.mark.parametrize("minus_one", [True, False])
@pytest.mark.parametrize("group", [32, 96, -1])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_unpack_undoes_pack(bits, group, minus_one):
    layout = GptqLayout(QuantSpec(bits, group), minus_one)
    weight = random_weight(64, 192, layout.spec)
    tensors = layout.pack(weight)
    parts = layout.parts(64, 192)
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) == parts[name].shape, name
        assert tensor.dtype in parts[name].dtypes, name
        assert tensor.is_contiguous()
    back = layout.unpack(tensors, 192)
    for part in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(back, part), getattr(weight, part)), part
    assert torch.equal(tensors["g_idx"], torch.arange(192, dtype=torch.int32) // weight.group_size)


def test_words_go_along_inputs_and_those_of_zeros_along_outputs():
    spec = QuantSpec(4, 8)
    codes, zeros = torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(8, 1, dtype=torch.uint8)
    codes[5], zeros[:, 0] = torch.arange(8), torch.arange(8)
    weight = QuantizedWeight(codes, torch.ones(8, 1).half(), zeros, spec)
    packed = GptqLayout(spec, minus_one=False).pack(weight)
    assert packed["qweight"].tolist() == [[0, 0, 0, 0, 0, 0x76543210, 0, 0]]
    assert packed["qzeros"].tolist() == [[0x76543210]]


# GPTQModel 5, convert_gptq_v1_to_v2_format_module: v1 words + 0x11111111 are v2 words, for a
# zero of 0 too, which had borrowed from its neighbour. Symmetric 4 bits: 8 is stored as 7.
@pytest.mark.parametrize(
    ("bits", "zeros", "word"),
    [
        (4, [8] * 8, 0x77777777),
        (4, [1, 2, 3, 4, 5, 6, 7, 8], 0x76543210),
        (4, [0, 1, 8, 8, 8, 8, 8, 8], 0x777776FF),
        (8, [128] * 4, 0x7F7F7F7F),
        (2, [2] * 16, 0x55555555),
    ],
)
def test_zeros_of_the_first_version_are_stored_minus_one(bits, zeros, word):
    layout = GptqLayout(QuantSpec(bits, 32), minus_one=True)
    outputs = len(zeros)
    tensors = {
        "qweight": torch.zeros(bits, outputs, dtype=torch.int32),
        "qzeros": torch.tensor([[word]], dtype=torch.int32),
        "scales": torch.ones(1, outputs).half(),
    }
    found = layout.unpack(tensors, 32)
    assert found.zeros.flatten().tolist() == zeros
    assert torch.equal(layout.pack(found)["qzeros"], tensors["qzeros"])
    plain = GptqLayout(QuantSpec(bits, 32), minus_one=False).unpack(tensors, 32)
    assert plain.zeros.flatten().tolist() != zeros


def test_zeros_of_three_bits_are_stored_minus_one_code_by_code():
    layout = GptqLayout(QuantSpec(3, 32), minus_one=True)
    weight = random_weight(32, 32, layout.spec)
    stored = GptqLayout(layout.spec, minus_one=False).unpack(layout.pack(weight), 32)
    assert torch.equal(stored.zeros, (weight.zeros + 7) % 8)


def test_what_fits():
    assert GptqLayout(QuantSpec(4, 64)).holds(8, 192)
    assert not GptqLayout(QuantSpec(4, 128)).holds(8, 192)
    assert not GptqLayout(QuantSpec(4, 64)).holds(12, 192)
    assert not GptqLayout(QuantSpec(3, 64)).holds(40, 192)
    assert GptqLayout(QuantSpec(8, -1)).holds(12, 20)


def test_the_config_is_read():
    found = read_quantization_config(CONFIG)
    assert found.spec == QuantSpec(4, 128, symmetric=True)
    assert (found.minus_one, found.label) == (True, "GPTQ")
    newer = read_quantization_config({**CONFIG, "checkpoint_format": "gptq_v2", "sym": False})
    assert newer.spec == QuantSpec(4, 128)
    assert (newer.minus_one, newer.label) == (False, "GPTQ v2")
    oldest = {key: CONFIG[key] for key in ("quant_method", "bits", "group_size")}
    assert read_quantization_config(oldest).minus_one
    left_out = {**CONFIG, "dynamic": {"-:.*down_proj": {}}}
    assert read_quantization_config(left_out).spec == found.spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"checkpoint_format": "marlin"},
            "checkpoint_format is 'marlin', expected gptq or gptq_v2",
        ),
        ({"checkpoint_format": ["gptq"]}, "checkpoint_format is"),
        ({"bits": 5}, "bits is 5, expected 2, 3, 4 or 8"),
        ({"bits": True}, "bits is True"),
        ({"bits": None}, "bits is None"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": "128"}, "group_size is '128'"),
        ({"sym": "yes"}, "sym is 'yes', expected true or false"),
        ({"pack_dtype": "int64"}, "pack_dtype is 'int64'"),
        ({"lm_head": True}, "the head is quantized"),
        ({"dynamic": {"+:.*up_proj": {"bits": 9}}}, "bits is 9"),
        ({"dynamic": {"+:*": {"bits": 8}}}, "a pattern cannot be read"),
        ({"dynamic": {"+:.*up_proj": 8}}, "expected objects by pattern"),
        ({"dynamic": [1]}, "expected objects by pattern"),
    ],
)
def test_other_configs_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        read_quantization_config({**CONFIG, **changes})
