"""Fused linears are taken apart and put together again, against the loops of their own code."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import fuse_wqkv

from mindpress.formats.fusion import (
    fuse,
    fuse_quantized,
    role_rows,
    unfuse,
    unfuse_quantized,
)
from mindpress.formats.quantized import QuantizedWeight, QuantSpec
from mindpress.models.registry import ARCHITECTURES
from mindpress.models.shape import ModelShape, read_shape

WQKV = ARCHITECTURES["InternLM2ForCausalLM"].block.linear_of("key")
QKV = ARCHITECTURES["Phi3ForCausalLM"].block.linear_of("key")
GATE_UP = ARCHITECTURES["Phi3ForCausalLM"].block.linear_of("up")
ALONE = ARCHITECTURES["LlamaForCausalLM"].block.linear_of("key")


def shape_of(kv_heads: int, share: int, head_dim: int, inner: int = 24) -> ModelShape:
    heads = kv_heads * share
    config = {
        "hidden_size": 16,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "vocab_size": 8,
    }
    return read_shape(config, ARCHITECTURES["InternLM2ForCausalLM"])


# kv heads, query heads of each, channels of a head
counts = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))


def numbered(linear, shape: ModelShape) -> torch.Tensor:
    rows = sum(shape.rows[role] for role in linear.roles)
    return torch.arange(rows * 3).view(rows, 3)


@given(counts, st.sampled_from([WQKV, QKV, GATE_UP, ALONE]))
def test_fuse_undoes_unfuse(counts, linear):
    shape = shape_of(*counts)
    stored = numbered(linear, shape)
    parts = unfuse(stored, linear, shape)
    assert [len(parts[role]) for role in linear.roles] == [
        shape.rows[role] for role in linear.roles
    ]
    assert torch.equal(fuse(parts, linear, shape), stored)
    assert torch.equal(fuse(unfuse(stored[:, 0], linear, shape), linear, shape), stored[:, 0])


@given(counts)
def test_grouped_rows_are_those_of_internlm2(counts):
    """Per kv head its query heads, its key head, its value head, written as a loop over heads."""
    shape = shape_of(*counts)
    parts = {role: torch.randn(shape.rows[role], 2) for role in ("query", "key", "value")}
    looped = fuse_wqkv(*parts.values(), heads=shape.heads, kv_heads=shape.kv_heads)
    assert torch.equal(fuse(parts, WQKV, shape), looped)
    back = unfuse(looped, WQKV, shape)
    assert all(torch.equal(back[role], parts[role]) for role in parts)


def test_plain_rows_are_neighbours():
    shape = shape_of(kv_heads=2, share=2, head_dim=4)
    rows = role_rows(QKV, shape)
    assert rows["query"].tolist() == list(range(16))
    assert rows["key"].tolist() == list(range(16, 24))
    assert rows["value"].tolist() == list(range(24, 32))


@given(counts, st.sampled_from([WQKV, QKV, ALONE]))
def test_row_numbers_say_what_unfuse_does(counts, linear):
    shape = shape_of(*counts)
    stored = numbered(linear, shape)
    parts = unfuse(stored, linear, shape)
    for role, rows in role_rows(linear, shape).items():
        assert torch.equal(stored[rows], parts[role])


@pytest.mark.parametrize("linear", [WQKV, QKV, ALONE], ids=["grouped", "plain", "alone"])
def test_codes_scales_and_zeros_go_the_way_of_the_weight(linear):
    shape = shape_of(kv_heads=2, share=3, head_dim=4)
    rows = sum(shape.rows[role] for role in linear.roles)
    weight = QuantizedWeight(
        codes=torch.randint(0, 16, (rows, 64), dtype=torch.uint8),
        scales=torch.rand(rows, 2),
        zeros=torch.randint(0, 16, (rows, 2), dtype=torch.uint8),
        spec=QuantSpec(group_size=32),
    )
    parts = unfuse_quantized(weight, linear, shape)
    whole = unfuse(weight.dequantize(), linear, shape)
    for role in linear.roles:
        assert torch.equal(parts[role].dequantize(), whole[role])
    assert torch.equal(fuse_quantized(parts, linear, shape).dequantize(), weight.dequantize())
