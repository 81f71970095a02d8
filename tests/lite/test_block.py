"""Smoothing must not change what a block computes; only rounding may."""

import pytest
import torch

from mindpress.calib.stream import BlockStream
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.block import quantize_block
from mindpress.lite.choose import load_result
from mindpress.lite.sites import sites_of
from mindpress.lite.smoothing import tie_heads
from mindpress.lite.task import BlockTask
from mindpress.sources.folder import open_folder
from tests.tiny_models import FAMILIES, save_tiny

CPU = torch.device("cpu")


def task_for(stream, quantized=frozenset()):
    return BlockTask(
        block=stream.runs.block,
        shape=stream.source.shape,
        spec=QuantSpec(4, 32),
        quantized=quantized,
        norm_offset=stream.source.architecture.norm_offset,
        stored=torch.float32,
        device=CPU,
    )


def random_scales(task):
    generator = torch.Generator().manual_seed(1)
    scales = {}
    for site in sites_of(task.block):
        width = task.shape.columns[site.linears[0].roles[0]]
        scale = torch.rand(width, generator=generator) * 3 + 0.2
        if site.producer == "value":
            scale = tie_heads(scale, task.shape.kv_heads, task.shape.head_dim)
        scales[site.name] = scale
    return scales


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smoothed_block_computes_the_same(family, tmp_path):
    biased = {"attention_bias": True} if family in ("llama", "internlm2") else {}
    folder = save_tiny(family, tmp_path / family, dtype=torch.float32, **biased)
    stream = BlockStream(open_folder(folder), CPU, torch.float32)
    task = task_for(stream)
    hidden = torch.randn(1, 40, 128, generator=torch.Generator().manual_seed(0))
    with stream.block(0) as block:
        expected = block.run(hidden)
        smoothed = quantize_block(stream.weights(0), task, random_scales(task), None, "smoothed")
        load_result(block.module, smoothed)
        found = block.run(hidden)
        changed = smoothed.floats[f"{task.block.linear_of('down').name}.weight"]
        assert not torch.equal(changed, stream.weights(0)["mlp.down_proj.weight"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_codes_stand_for_the_smoothed_weights(tmp_path):
    stream = BlockStream(
        open_folder(save_tiny("llama", tmp_path / "m", dtype=torch.float32)), CPU, torch.float32
    )
    names = frozenset(linear.name for linear in stream.runs.block.linears)
    task = task_for(stream, names)
    scales = random_scales(task)
    result = quantize_block(stream.weights(0), task, scales, None, "smoothed")
    assert set(result.codes) == names
    exact = quantize_block(stream.weights(0), task_for(stream), scales, None, "exact")
    for name, codes in result.codes.items():
        half_step = codes.scales.float().repeat_interleave(32, dim=1) * 0.51
        error = (codes.dequantize(torch.float32) - exact.floats[f"{name}.weight"]).abs()
        assert (error <= half_step).all(), name
