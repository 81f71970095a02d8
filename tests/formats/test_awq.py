"""The AWQ gemm layout, against folders that AutoAWQ wrote and against its own inverse."""

from pathlib import Path

import pytest
import torch

from mindpress.errors import InputError
from mindpress.formats import awq
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.sources.folder import ModelFolder, open_folder

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "hf"


def random_weight(outputs: int, inputs: int, spec: QuantSpec) -> QuantizedWeight:
    groups = inputs // spec.group_of(inputs)
    return QuantizedWeight(
        codes=torch.randint(0, spec.max_code + 1, (outputs, inputs), dtype=torch.uint8),
        scales=torch.rand(outputs, groups).half(),
        zeros=torch.randint(0, spec.max_code + 1, (outputs, groups), dtype=torch.uint8),
        spec=spec,
    )


@pytest.mark.parametrize("group", [32, 64, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_unpack_undoes_pack(bits, group):
    spec = QuantSpec(bits=bits, group_size=group)
    weight = random_weight(24, 192, spec)
    tensors = awq.pack(weight)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == awq.packed_shapes(24, 192, spec)
    assert tensors["qweight"].dtype == tensors["qzeros"].dtype == torch.int32
    assert tensors["scales"].dtype == torch.float16
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    back = awq.unpack(tensors, spec)
    for part in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(back, part), getattr(weight, part))


@pytest.fixture(scope="module")
def original() -> ModelFolder:
    return open_folder(GOLDEN / "mha")


@pytest.fixture(scope="module")
def quantized() -> ModelFolder:
    return open_folder(GOLDEN / "mha-awq")


class TestWhatAutoAwqWrote:
    """mha-awq is mha quantized by rounding, so each weight lies within half a step of it."""

    def test_the_spec(self, quantized):
        assert quantized.spec == QuantSpec(bits=4, group_size=128)

    def test_the_weights(self, original, quantized):
        for layer in range(original.shape.layers):
            expected = original.linears(layer)
            for role, linear in quantized.linears(layer).items():
                step = linear.weight.scales.float().repeat_interleave(128, dim=1)
                error = linear.weight.dequantize(torch.float32) - expected[role].weight.float()
                assert (error.abs() / step).max() < 0.51, role

    def test_packed_again_it_is_the_same_to_the_bit(self, quantized):
        stored = quantized.checkpoint
        for name in stored.tensors:
            if name.endswith(".qweight"):
                linear = name.removesuffix(".qweight")
                packed = awq.pack(quantized.linear(linear).weight)
                for part, tensor in packed.items():
                    assert torch.equal(tensor, stored.tensor(f"{linear}.{part}"))


def test_what_fits():
    assert awq.holds(8, 256, QuantSpec(4, 128))
    assert not awq.holds(8, 192, QuantSpec(4, 128))
    assert not awq.holds(12, 256, QuantSpec(4, 128))
    assert awq.holds(12, 192, QuantSpec(8, -1))


def test_the_config_is_read_as_it_is_written():
    spec = QuantSpec(4, 64)
    config = awq.quantization_config(spec, ("lm_head",))
    assert awq.read_quantization_config(config) == spec
    assert config["modules_to_not_convert"] == ["lm_head"]
    assert awq.quantization_config(spec, ())["modules_to_not_convert"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "gptq"}, "method `gptq`"),
        ({"quant_method": None}, "method `None`"),
        ({"version": "gemv"}, "version `gemv`"),
        ({"version": 2}, "version `2`"),
        ({"bits": 3}, "bits is 3"),
        ({"bits": [4]}, r"bits is \[4\]"),
        ({"bits": "4"}, "bits is '4'"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": -2}, "group_size is -2"),
        ({"group_size": None}, "group_size is None"),
        ({"group_size": True}, "group_size is True"),
    ],
)
def test_other_configs_are_refused(changes, message):
    config = {**awq.quantization_config(QuantSpec(), ()), **changes}
    with pytest.raises(InputError, match=message):
        awq.read_quantization_config(config)


@pytest.mark.parametrize("config", [[], "awq", 4])
def test_what_is_no_config_is_refused(config):
    with pytest.raises(InputError, match="expected an object"):
        awq.read_quantization_config(config)
