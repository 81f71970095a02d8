"""A layer that quantization would ruin stays in 16 bits, and the folder says so."""

import json
import re
from math import prod

import pytest
import torch

from mindpress.engine.config import EngineConfig
from mindpress.engine.loader import load_decoder
from mindpress.events import Note
from mindpress.lite.choose import FLOATS
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Recipe
from mindpress.sources.opening import open_source
from tests.damaged_weights import damage
from tests.short_runs import FEW_LONGER
from tests.tiny_models import save_tiny


def crossed(weight):
    """One huge weight in every group, on an input that is never active: the others round to 0."""
    weight = weight.clone()
    weight[:, ::32] = 1e4
    return weight


def rules(config):
    """What says which modules are left out, as vLLM 0.11 looks them up."""
    left = config.get("modules_to_not_convert") or config.get("ignore") or config.get("dynamic")
    return list(left)


def matches(rule, name):
    """Also by the name of linears that it fuses."""
    if rule[:2] == "-:" or rule[:3] == "re:":
        return re.match(rule.partition(":")[2], name) is not None
    return rule in name


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Layer 1 has weights of 1e4 where its norm has gains of 0."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("fragile") / "m", num_hidden_layers=3)
    silent = torch.ones(128)
    silent[::32] = 0
    layer = "model.layers.1"
    changes = {
        f"{layer}.input_layernorm.weight": lambda t: t * silent.to(t.dtype),
        f"{layer}.post_attention_layernorm.weight": lambda t: t * silent.to(t.dtype),
    }
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj",
                 "mlp.up_proj"):  # fmt: skip
        changes[f"{layer}.{name}.weight"] = crossed
    damage(folder, **changes)
    return folder


@pytest.mark.parametrize("changes", [
    {"rounding": "nearest", "search_scale": False}, {"algorithm": "gptq"},
    {"format": "compressed-tensors", "rounding": "nearest"},
], ids=str)  # fmt: skip
def test_a_ruined_layer_stays_in_floats(fragile, tmp_path, changes):
    notes = []
    recipe = Recipe(str(fragile), group_size=32, calibration=FEW_LONGER, **changes)
    report = quantize_model(recipe, tmp_path / "out", listener=notes.append)
    assert [layer.method == FLOATS for layer in report.layers] == [False, True, False]
    told = [note.text for note in notes if isinstance(note, Note)]
    assert any(text.startswith("model.layers.1: left in 16 bits") for text in told)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert any(matches(rule, "model.layers.1.mlp.gate_up_proj") for rule in rules(config))
    assert not any(matches(rule, "model.layers.11.mlp.gate_up_proj") for rule in rules(config))
    tensors = open_source(tmp_path / "out").checkpoint.tensors.values()
    assert report.bytes_after == sum(prod(info.shape) * info.dtype.itemsize for info in tensors)
    ours, theirs = (open_source(folder).linears(1) for folder in (tmp_path / "out", fragile))
    assert all(torch.equal(ours[role].weight, theirs[role].weight) for role in theirs)
    load_decoder(open_source(tmp_path / "out"), EngineConfig(device="cpu"))


def test_a_layer_that_adds_nothing_becomes_codes(tmp_path):
    """It is as far off as the layers before it left it, in floats, too."""
    folder = save_tiny("llama", tmp_path / "m", num_hidden_layers=3)
    damage(folder, **{f"model.layers.1.{name}.weight": torch.zeros_like
                      for name in ("self_attn.o_proj", "mlp.down_proj")})  # fmt: skip
    recipe = Recipe(str(folder), group_size=32, calibration=FEW_LONGER)
    report = quantize_model(recipe, tmp_path / "out")
    assert FLOATS not in [layer.method for layer in report.layers]
