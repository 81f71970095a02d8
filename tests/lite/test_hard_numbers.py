"""Models whose numbers are hard to quantize: a good model comes out, or the layer is named."""

import json

import pytest
import torch

from mindpress.events import Note
from mindpress.lite.choose import FLOATS
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration
from mindpress.sources.folder import open_folder
from tests.damaged_weights import damage
from tests.short_runs import recipe
from tests.tiny_models import save_tiny

ROUNDINGS = ("nearest", "compensated")


def silent(weight):
    """Norm gains of 0: channels that no token ever activates."""
    weight = weight.clone()
    weight[::3] = 0
    return weight


def empty_groups(weight):
    """Groups of weights that are all 0, and rows of them."""
    weight = weight.clone()
    weight[:, :32] = 0
    weight[5] = 0
    return weight


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_silent_channels_and_empty_groups(tmp_path, rounding):
    folder = save_tiny("llama", tmp_path / "m")
    layer = "model.layers.1"
    damage(folder, **{f"{layer}.input_layernorm.weight": silent,
                      f"{layer}.post_attention_layernorm.weight": silent,
                      f"{layer}.self_attn.q_proj.weight": empty_groups,
                      f"{layer}.mlp.down_proj.weight": empty_groups})  # fmt: skip
    report = quantize_model(recipe(folder, rounding=rounding), tmp_path / "out")
    assert all(layer.error < 0.2 and layer.method != FLOATS for layer in report.layers)


def test_fewer_tokens_than_inputs_are_said(tmp_path):
    """X^T X is singular: damping makes up for it."""
    folder, events = save_tiny("llama", tmp_path / "m"), []
    few = Calibration(dataset="excerpt", samples=2, length=8)
    asked = recipe(folder, rounding="compensated", calibration=few)
    report = quantize_model(asked, tmp_path / "out", listener=events.append)
    assert all(layer.error < 0.5 for layer in report.layers)
    told = [event.text for event in events if isinstance(event, Note)]
    assert any("calibration tokens are few" in text for text in told)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_layer_whose_scales_pass_float16_stays_in_16_bits_and_is_named(tmp_path, rounding):
    """A weight of 10 million among small ones: its group's scale is infinite as a float16."""
    folder = save_tiny("llama", tmp_path / "m", dtype=torch.bfloat16)

    def huge(weight):
        weight = weight.clone()
        weight[3, 3] = 1e7
        return weight

    damage(folder, **{"model.layers.1.mlp.down_proj.weight": huge})
    events = []
    report = quantize_model(
        recipe(folder, rounding=rounding), tmp_path / "out", listener=events.append
    )
    assert [layer.method == FLOATS for layer in report.layers] == [False, True]
    told = [event.text for event in events if isinstance(event, Note)]
    assert "model.layers.1: left in 16 bits: quantized, its output is NaN or infinite" in told
    ours, theirs = (open_folder(place).linears(1) for place in (tmp_path / "out", folder))
    assert all(torch.equal(ours[role].weight, theirs[role].weight) for role in theirs)
    assert json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
