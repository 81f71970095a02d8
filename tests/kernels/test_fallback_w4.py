"""Products with 4-bit weights without the compiled library: onnxruntime's and torch's kernels."""

import importlib
import math
import sys

import pytest
import torch
from w4_weights import weight_of

from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.kernels.matmul_w4a16.int4_torch import matmul_torch_int4, pack_torch_int4
from mindpress.kernels.matmul_w4a16.onnx import matmul_onnx, pack_onnx
from mindpress.kernels.matmul_w4a16.onnx_model import NbitsModel
from mindpress.kernels.matmul_w4a16.reference import matmul_reference

ROWS = pytest.mark.parametrize("rows", [1, 3, 63, 65])
GROUPS = pytest.mark.parametrize("group", [32, 64, 128, 256])


def gaussian(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(math.prod(size)))


def distance(found, x, weight):
    expected = matmul_reference(x, weight, torch.float64)
    return ((found - expected).norm() / expected.norm()).item()


@ROWS
@GROUPS
def test_torch_multiplies_within_bfloat16(rows, group):
    weight, x = weight_of(48, 768, group), gaussian(rows, 768)
    packed = pack_torch_int4(weight)
    assert (packed.outputs, packed.inputs, packed.group_size) == (48, 768, group)
    assert packed.nbytes == 48 * 768 // 2 + 4 * 48 * 768 // group
    assert distance(matmul_torch_int4(x, packed), x, weight) < 6e-3


def test_torch_takes_x_of_any_shape_order_and_type():
    weight = weight_of(16, 128)
    packed, x = pack_torch_int4(weight), gaussian(128, 3, 2).permute(1, 2, 0)
    found = matmul_torch_int4(x, packed)
    assert found.shape == (3, 2, 16)
    assert found.dtype == torch.float32
    assert torch.equal(found, matmul_torch_int4(x.contiguous(), packed))
    assert matmul_torch_int4(x.bfloat16(), packed).dtype == torch.bfloat16
    assert matmul_torch_int4(x[:0], packed).shape == (0, 2, 16)


def test_torch_refuses_what_it_does_not_multiply():
    for wrong in (weight_of(24, 128), weight_of(16, 96, 96), weight_of(16, 128, bits=8)):
        with pytest.raises(ConfigError, match="torch's CPU kernel"):
            pack_torch_int4(wrong)
    with pytest.raises(InputError, match="128 inputs, x has 64"):
        matmul_torch_int4(torch.zeros(1, 64), pack_torch_int4(weight_of(16, 128)))


@pytest.fixture
def onnxruntime():
    return importlib.import_module("onnxruntime")


@ROWS
@GROUPS
@pytest.mark.parametrize(("accuracy", "allowed"), [(0, 1e-6), (4, 1.5e-2)])
def test_onnxruntime_multiplies(onnxruntime, rows, group, accuracy, allowed):
    """768 / 256 is an odd number of groups, whose last zero has a byte for itself."""
    weight, x = weight_of(40, 768, group), gaussian(rows, 768)
    packed = pack_onnx(weight, accuracy)
    assert (packed.outputs, packed.inputs, packed.group_size) == (40, 768, group)
    assert packed.nbytes >= 40 * 768 // 2 + 4 * 40 * 768 // group
    assert distance(matmul_onnx(x, packed), x, weight) < allowed


def test_onnxruntime_takes_x_of_any_shape_order_and_type(onnxruntime):
    weight = weight_of(16, 128)
    packed, x = pack_onnx(weight, 0), gaussian(128, 3, 2).permute(1, 2, 0)
    found = matmul_onnx(x, packed)
    assert found.shape == (3, 2, 16)
    assert torch.equal(found, matmul_onnx(x.contiguous(), packed))
    assert distance(matmul_onnx(x.half(), packed), x.half(), weight) < 1e-6
    assert matmul_onnx(x[:0], packed).shape == (0, 2, 16)
    with pytest.raises(InputError, match="128 inputs, x has 64"):
        matmul_onnx(torch.zeros(1, 64), packed)


def test_onnxruntime_refuses_what_it_does_not_multiply(onnxruntime):
    for wrong in (weight_of(16, 96, 96), weight_of(16, 128, bits=8), weight_of(0, 128)):
        with pytest.raises(ConfigError, match="onnxruntime"):
            pack_onnx(wrong)


def test_without_onnxruntime_the_call_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match="onnxruntime cannot be imported"):
        pack_onnx(weight_of(16, 128))


def test_the_bytes_of_a_model():
    """As protoc --decode shows them: numbers of fields, kinds, lengths."""
    made = NbitsModel(300, 32, 32, 4, b"codes", b"scales", b"zeros").serialized()
    assert made[:3] == b"\x08\x0a\x3a"  # ir_version 10, then the graph
    assert b"\x22\x0bMatMulNBits" in made
    assert b"\x0a\x01N\x18\xac\x02\xa0\x01\x02" in made  # 300 in two bytes, of the type INT
    assert b"\x08\xac\x02\x08\x01\x08\x10\x10\x02\x42\x05codes\x4a\x05codes" in made
    assert made.endswith(b"\x42\x04\x0a\x00\x10\x15\x42\x11\x0a\x0dcom.microsoft\x10\x01")
