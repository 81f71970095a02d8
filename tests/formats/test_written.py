"""Which layout is written under which name, what its config says, and who reads it."""

import re

import pytest

from mindpress.errors import ConfigError
from mindpress.formats.layout import LeftOut
from mindpress.formats.quantized import QuantSpec
from mindpress.formats.written import written_layout
from mindpress.sources.layouts import read_layout

HELD = [("awq", 4), ("awq", 8)]
HELD += [(name, bits) for name in ("gptq", "compressed-tensors") for bits in (2, 3, 4, 8)]
LEFT = LeftOut("lm_head", ("mlp.down_proj",), ("model.layers.0", "model.layers.1"))
NOTHING = LeftOut("lm_head")


@pytest.mark.parametrize("group", [64, -1])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("name", "bits"), HELD)
def test_the_config_that_is_written_is_read_as_the_same_layout(name, bits, symmetric, group):
    layout = written_layout(name, QuantSpec(bits, group, symmetric))
    config = layout.quantization_config(LEFT, {})
    assert config["quant_method"] == layout.method == name
    found = read_layout(config)
    # The AWQ layout stores the zeros of symmetric codes, and does not say that they are.
    spec = QuantSpec(bits, group, symmetric and name != "awq")
    assert (found.spec, found.label) == (spec, layout.label)
    assert found.written[:2] == layout.written[:2]


@pytest.mark.parametrize(
    ("name", "bits", "hint"),
    [
        ("awq", 3, "--format gptq or compressed-tensors"),
        ("awq", 2, "--w-bits 4"),
        ("gptq", 5, "--w-bits 4"),
        ("compressed-tensors", 6, "--w-bits 4"),
    ],
)
def test_a_width_that_a_format_cannot_hold_is_refused(name, bits, hint):
    with pytest.raises(ConfigError, match=f"--w-bits {bits}: .*{name} holds") as caught:
        written_layout(name, QuantSpec(bits))
    assert hint in str(caught.value.hint)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="--format gguf: not known") as caught:
        written_layout("gguf", QuantSpec())
    assert "compressed-tensors" in str(caught.value.hint)


def test_gptq_is_version_one_where_its_zeros_are_the_middle():
    """v1 cannot say a zero of 0, and GPTQModel refuses v1 with zeros of other programs."""
    for symmetric, named in ((True, "gptq"), (False, "gptq_v2")):
        layout = written_layout("gptq", QuantSpec(4, 128, symmetric))
        assert layout.quantization_config(NOTHING, {}) == {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "sym": symmetric,
            "desc_act": False,
            "static_groups": True,
            "lm_head": False,
            "checkpoint_format": named,
            "pack_dtype": "int32",
        }


def test_compressed_tensors_names_its_scheme_and_every_module_without_codes():
    config = written_layout("compressed-tensors", QuantSpec(3, 64)).quantization_config(LEFT, {})
    assert config["format"] == "pack-quantized"
    assert config["quantization_status"] == "compressed"
    assert config["ignore"] == [
        "lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj",
    ]  # fmt: skip
    assert config["config_groups"]["group_0"] == {
        "targets": ["Linear"],
        "weights": {"num_bits": 3, "type": "int", "symmetric": False, "strategy": "group",
                    "group_size": 64, "dynamic": False, "actorder": None},
        "input_activations": None,
        "output_activations": None,
    }  # fmt: skip
    whole = written_layout("compressed-tensors", QuantSpec(8, -1, symmetric=True))
    weights = whole.quantization_config(NOTHING, {})["config_groups"]["group_0"]["weights"]
    assert (weights["strategy"], weights["group_size"]) == ("channel", None)


def test_modules_without_codes_are_left_out_as_each_program_reads_it():
    gptq = written_layout("gptq", QuantSpec()).quantization_config(LEFT, {})
    (rule,) = gptq["dynamic"]
    # GPTQModel and vLLM match the rule without its sign from the beginning of a name.
    assert re.match(rule.removeprefix("-:"), "model.layers.1.mlp.down_proj")
    assert not re.match(rule.removeprefix("-:"), "model.layers.1.mlp.up_proj")
    assert not re.match(rule.removeprefix("-:"), "model.layers.1.mlp.down_proj.inner")
    awq = written_layout("awq", QuantSpec()).quantization_config(LEFT, {})
    assert awq["modules_to_not_convert"] == ["mlp.down_proj"]


@pytest.mark.parametrize(
    ("name", "spec", "reads", "not_read"),
    [
        ("awq", QuantSpec(4, 128), {"vLLM", "LMDeploy"}, None),
        ("awq", QuantSpec(4, 64), {"vLLM"}, "LMDeploy reads groups of 128"),
        ("awq", QuantSpec(8, 128), {"vLLM"}, "not by LMDeploy"),
        ("gptq", QuantSpec(4, 128, True), {"vLLM", "LMDeploy", "GPTQModel"}, None),
        ("gptq", QuantSpec(8, 64, True), {"vLLM", "GPTQModel"}, None),
        ("gptq", QuantSpec(4, 128), {"GPTQModel"}, "vLLM"),
        ("gptq", QuantSpec(3, 128, True), {"GPTQModel"}, "vLLM"),
        ("compressed-tensors", QuantSpec(4, 128), {"vLLM"}, None),
        ("compressed-tensors", QuantSpec(3, 128, True), {"vLLM"}, None),
        ("compressed-tensors", QuantSpec(3, 128), set(), "add --w-sym"),
    ],
)
def test_who_reads_it_and_who_does_not(name, spec, reads, not_read):
    layout = written_layout(name, spec)
    assert {reader.split(" ")[0] for reader in layout.readers} - {"transformers"} == reads
    limits = " ".join(layout.limits)
    assert not_read in limits if not_read else not limits
