"""Keys, values and channels of every family, against transformers' own forward with a cache."""

import pytest
import torch
from transformers import DynamicCache

from mindpress.calib.capture import capture_inputs, capture_outputs
from mindpress.calib.key_values import KeyValueStatistics
from mindpress.calib.statistics import ChannelStatistics
from mindpress.calib.stream import BlockStream
from mindpress.formats.fusion import fuse
from mindpress.sources.folder import open_folder
from tests.tiny_awq import quantize_folder
from tests.tiny_models import FAMILIES, save_tiny, tiny_model

CPU = torch.device("cpu")


def drawn(samples=3, length=40):
    return torch.randint(0, 4096, (samples, length), generator=torch.Generator().manual_seed(0))


def recorded(stream, tokens, batch=2):
    """Keys and values of every layer, and the hidden states after it, in batches."""
    shape = stream.source.shape
    hidden = torch.empty(*tokens.shape, shape.hidden)
    stream.embed(tokens, hidden)
    layers = []
    for index in range(len(stream)):
        seen = KeyValueStatistics(shape.kv_heads, shape.head_dim, CPU)
        with stream.block(index) as block:
            without = torch.cat([block.run(part) for part in hidden.split(batch)])
            hidden = torch.cat([block.run(part, seen) for part in hidden.split(batch)])
        assert torch.equal(hidden, without)
        layers.append(seen)
    return layers


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_are_those_of_a_transformers_cache(family, tmp_path):
    tokens = drawn()
    folder = save_tiny(family, tmp_path / family, dtype=torch.float32)
    layers = recorded(BlockStream(open_folder(folder), CPU, torch.float32), tokens)
    model = tiny_model(family, dtype=torch.float32)
    extremes = []
    for batch in tokens.split(2):  # without the config it keeps what slides out of windows, too
        cache = DynamicCache()
        with torch.no_grad():
            model.get_decoder()(batch, past_key_values=cache, use_cache=True)
        extremes.append([(layer.keys, layer.values) for layer in cache.layers])
    for index, seen in enumerate(layers):
        for place, ours in enumerate((seen.keys, seen.values)):
            both = torch.cat([batch[index][place] for batch in extremes])
            assert torch.equal(ours.low, both.amin((0, 2)))
            assert torch.equal(ours.high, both.amax((0, 2)))
            assert torch.equal(ours.absmax, both.abs().amax((0, 2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_awq_folder_runs_as_what_its_codes_stand_for(family, tmp_path):
    """Against the same weights in float32, put into transformers' own class."""
    folder = save_tiny(family, tmp_path / "m")
    source = open_folder(quantize_folder(folder))
    stream = BlockStream(source, CPU, torch.float32)
    tokens = drawn(2)
    hidden = torch.empty(*tokens.shape, 128)
    stream.embed(tokens, hidden)
    twin = in_half(tiny_model(family, dtype=torch.float32)).get_decoder()
    for index in range(2):
        state = twin.layers[index].state_dict()
        for linear in stream.runs.block.linears:
            stored = source.linears(index)
            roles = {r: stored[r].weight.dequantize(torch.float32) for r in linear.roles}
            state[f"{linear.name}.weight"].copy_(fuse(roles, linear, source.shape))
        with stream.block(index) as block:
            hidden = block.run(hidden)
    with torch.no_grad():
        assert torch.equal(twin.norm(hidden), twin(tokens, use_cache=False).last_hidden_state)


@torch.no_grad()
def in_half(model):
    """The model with weights as a float16 folder holds them, computing in float32."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model


def test_channels_of_a_linear_are_exact_over_all_tokens():
    """Bit for bit, but means: the order of summation is another."""
    draw = torch.Generator().manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Linear(16, 8))
    fed, given = ChannelStatistics(16, CPU), ChannelStatistics(8, CPU)
    x = torch.randn(6, 10, 16, generator=draw) + torch.arange(16) / 4
    with torch.no_grad(), capture_inputs(linear, {"0": fed}), capture_outputs(linear, {"0": given}):
        y = torch.cat([linear(part) for part in x.split(4)])
    for seen, values in ((fed, x), (given, y)):
        rows, found = values.flatten(0, 1), seen.tensors()
        assert torch.equal(found["min"], rows.amin(0))
        assert torch.equal(found["max"], rows.amax(0))
        assert torch.equal(found["absmax"], rows.abs().amax(0))
        torch.testing.assert_close(found["mean"], rows.double().mean(0).float())
        torch.testing.assert_close(found["absmean"], rows.double().abs().mean(0).float())
        assert {t.dtype for t in found.values()} == {torch.float32}


def test_a_mean_keeps_what_many_batches_add():
    """In float32 a sum of 2^24 no longer grows by ones."""
    seen = ChannelStatistics(1, CPU)
    seen.add(torch.full((1, 1), 2.0**24))
    for _ in range(1000):
        seen.add(torch.ones(1, 1))
    assert float(seen.mean) == torch.tensor((2.0**24 + 1000) / 1001).item()


def test_what_is_no_number_is_noticed_or_replaced():
    strange = torch.tensor([[1.0, float("nan")], [-float("inf"), 3.0]])
    plain, clamped = ChannelStatistics(2, CPU), ChannelStatistics(2, CPU, clamp=True)
    plain.add(strange)
    clamped.add(strange)
    assert not plain.extremes.finite
    assert clamped.extremes.finite
    assert clamped.extremes.clamped
    found = clamped.tensors()
    assert found["min"].tolist() == [-65504.0, 0.0]
    assert found["max"].tolist() == [1.0, 3.0]
    assert found["mean"].tolist() == [-32751.5, 1.5]
