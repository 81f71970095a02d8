import pytest
import torch
from tiny_awq import random_weight

from mindpress.formats.quantized import QuantSpec
from mindpress.formats.ranks import pad_inputs, pad_outputs
from mindpress.formats.turbomind_files import DOWN, GATE_UP, QUERY_KEY_VALUE, cut, join

ROWS = {"query": 64, "key": 16, "value": 16, "gate": 48, "up": 48, "down": 8}
COLUMNS = 256
SPEC = QuantSpec(group_size=32)


def parts_of(matrix, quantized):
    generator = torch.Generator().manual_seed(0)

    def part(rows):
        if quantized:
            return random_weight(rows, COLUMNS, SPEC, generator)
        return torch.randn(rows, COLUMNS, generator=generator)

    return {role: part(ROWS[role]) for role in matrix.roles}


def dense(part):
    return part if isinstance(part, torch.Tensor) else part.dequantize(torch.float32)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("quantized", [False, True], ids=["floats", "codes"])
@pytest.mark.parametrize("matrix", [QUERY_KEY_VALUE, GATE_UP, DOWN], ids=lambda m: m.name)
def test_joining_undoes_cutting(matrix, quantized, tp):
    parts = parts_of(matrix, quantized)
    joined = join(matrix, list(cut(matrix, parts, tp)), ROWS)
    assert joined.keys() == parts.keys()
    for role, part in parts.items():
        assert torch.equal(dense(joined[role]), dense(part))


def test_a_rank_has_its_part_of_each_of_query_key_and_value():
    parts = parts_of(QUERY_KEY_VALUE, quantized=False)
    second = list(cut(QUERY_KEY_VALUE, parts, 2))[1]
    expected = [parts["query"][32:], parts["key"][8:], parts["value"][8:]]
    assert torch.equal(second, torch.cat(expected))


def test_gate_and_up_alternate():
    parts = parts_of(GATE_UP, quantized=True)
    (merged,) = cut(GATE_UP, parts, 1)
    assert torch.equal(merged.codes[0::2], parts["gate"].codes)
    assert torch.equal(merged.codes[1::2], parts["up"].codes)


@pytest.mark.parametrize("quantized", [False, True], ids=["floats", "codes"])
def test_padding_adds_zeros_only(quantized):
    part = parts_of(DOWN, quantized)["down"]
    padded = dense(pad_outputs(pad_inputs(part, 320), 16))
    assert padded.shape == (16, 320)
    assert torch.equal(padded[:8, :256], dense(part))
    assert padded.count_nonzero() == dense(part).count_nonzero()
