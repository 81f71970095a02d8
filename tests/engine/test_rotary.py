"""That every kind gives transformers' logits is tested in test_decoder.py; here what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import edit_config, save_tiny

from mindpress.engine.rotary import Rotary
from mindpress.errors import InputError
from mindpress.models.shape import Rope
from mindpress.sources.folder import open_folder

LONG = {"long_factor": [2.0] * 16, "short_factor": [1.0] * 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny("phi3", tmp_path_factory.mktemp("phi3"), tokenizer=False)


def rotary(folder, kind, parameters):
    shape = replace(open_folder(folder).shape, rope=Rope(1e4, kind, parameters))
    return Rotary(shape, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        ("alibi", {}, "`alibi` is not known"),
        ("linear", {}, "lacks 'factor'"),
        ("llama3", {"factor": 8.0}, "lacks 'low_freq_factor'"),
        ("linear", {"factor": "four"}, "rope type `linear`"),
        ("longrope", {**LONG, "short_factor": [1.0] * 3}, "rope type `longrope`"),
        ("longrope", {**LONG, "long_factor": [1.0] * 3}, "rope type `longrope`"),
    ],
)
def test_a_damaged_config_is_named(folder, kind, parameters, words):
    with pytest.raises(InputError, match=words):
        rotary(folder, kind, parameters)


def test_the_spelling_of_phi3_configs_of_2024(tmp_path):
    """`su` in `rope_scaling`, the trained length beside it."""
    save_tiny("phi3", tmp_path, tokenizer=False)
    scaling = {"type": "su", **LONG}
    edit_config(
        tmp_path,
        rope_parameters=None,
        rope_theta=10000.0,
        rope_scaling=scaling,
        original_max_position_embeddings=128,
    )
    assert json.loads((tmp_path / "config.json").read_text())["rope_scaling"] == scaling
    shape = open_folder(tmp_path).shape
    table = Rotary(shape, torch.device("cpu"), torch.float32)
    assert table.regime(128) == 0
    assert table.regime(129) == 1
    assert not torch.equal(table.tables(5, 1, 128)[0], table.tables(5, 1, 129)[0])
