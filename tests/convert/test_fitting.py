"""What a workspace cannot hold is refused before anything is written, with the way out."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_awq import quantize_folder
from tiny_models import edit_config, save_tiny

from mindpress.convert.convert import convert_model, plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError, InputError, MindpressError, UnsupportedModelError
from mindpress.formats.cache_spec import CacheSpec
from mindpress.formats.quantized import QuantSpec
from mindpress.sources.workspace import open_workspace

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hf"
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 101,
}


@pytest.fixture
def save(tmp_path):
    def write(family="llama", **overrides):
        return save_tiny(family, tmp_path / "model", **(SIZES | overrides))

    return write


def refused(folder, **settings):
    """The error of a conversion, which must have written nothing."""
    target = folder.parent / "out" / "workspace"
    with pytest.raises(MindpressError) as caught:
        convert_model(Conversion(str(folder), target, **settings))
    assert not target.parent.exists()
    return caught.value


def plan(folder, **settings):
    return plan_conversion(Conversion(str(folder), folder.parent / "workspace", **settings))


@pytest.mark.parametrize(
    ("family", "why"), [("qwen3", "query and key norms"), ("gemma2", "soft caps")]
)
def test_families_that_turbomind_cannot_compute(family, why, save):
    error = refused(save(family))
    assert isinstance(error, UnsupportedModelError)
    assert why in str(error)
    assert "mindpress chat" in error.hint


@pytest.mark.parametrize(
    ("overrides", "why"),
    [({"hidden_act": "gelu"}, "activation `gelu`"), ({"mlp_bias": True}, "biases in the feed-")],
)
def test_llamas_that_turbomind_cannot_compute(overrides, why, save):
    assert why in str(refused(save(**overrides), force=True))


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_heads_that_tp_does_not_divide(tp, save):
    error = refused(save(num_key_value_heads=1), tp=tp)
    assert isinstance(error, ConfigError)
    assert str(error) == f"--tp {tp}: 2 heads and 1 kv heads cannot be shared equally"
    assert error.hint == "works for this model: --tp 1"


def test_a_tp_that_turbomind_has_not(save):
    assert str(refused(save(), tp=3)).startswith("--tp 3")


@pytest.mark.parametrize("version", ["0.2", "0.5", "0.6"])
def test_groups_of_the_attention_output_are_not_cut(version, save):
    folder = save(num_attention_heads=4, num_key_value_heads=4, head_dim=64)
    quantize_folder(folder)
    error = refused(folder, tp=4, tm_version=version, force=True)
    assert "64 inputs of the attention output are no whole groups of 128" in str(error)
    assert error.hint == "works for this model: --tp 1 or 2"


def test_heads_of_64_are_refused_in_the_older_layout_and_forced_truthfully(save):
    folder = save(num_attention_heads=4, num_key_value_heads=4, head_dim=64)
    error = refused(folder, tm_version="0.5")
    assert "head size 64" in str(error)
    assert error.hint == "use --tm-version 0.6"
    report = convert_model(
        Conversion(str(folder), folder.parent / "workspace", tm_version="0.5", force=True)
    )
    assert any("head size 64" in note for note in report.notes)
    config = open_workspace(report.target).config
    assert (config.heads, config.head_dim, config.rotary_dim) == (4, 64, 64)


def test_auto_says_which_layout_it_takes_and_why(save):
    assert plan(save()).notes[0].text.startswith("writing config.ini, which LMDeploy 0.1 to 0.5")
    folder = save(num_attention_heads=4, num_key_value_heads=4, head_dim=64)
    note = plan(folder).notes[0].text
    assert note.startswith("writing config.yaml, which LMDeploy 0.6.3")
    assert "head size 64" in note


def test_a_rope_that_older_engines_ignore_is_named(save):
    folder = save()
    rope = {"rope_type": "linear", "factor": 2.0}
    edit_config(folder, rope_parameters=None, rope_theta=1e4, rope_scaling=rope)
    assert "LMDeploy 0.5.2 to 0.5" in plan(folder).notes[0].text


def test_heads_that_do_not_fill_the_hidden_size_need_the_newer_layout(save):
    folder = save(hidden_size=512)
    assert plan(folder).dialect.layout == "yaml"
    assert "2 heads of 128 on a hidden size 512" in str(refused(folder, tm_version="0.5"))
    assert refused(folder, tm_version="0.5", force=True).hint == "use --tm-version 0.6"


def test_heads_no_engine_was_built_for(save):
    folder = save(num_attention_heads=8, num_key_value_heads=8, head_dim=32)
    error = refused(folder)
    assert "head size 32" in str(error)
    assert "--force" in error.hint
    plan(folder, force=True)


def test_groups_no_engine_was_built_for(save):
    folder = quantize_folder(save(), QuantSpec(group_size=64))
    assert "int4 groups of 64" in str(refused(folder))
    convert_model(Conversion(str(folder), folder.parent / "workspace", tp=2, force=True))
    assert open_workspace(folder.parent / "workspace").config.group_size == 64


@pytest.mark.parametrize(
    ("rope", "version", "why"),
    [
        ({"rope_type": "linear", "factor": 2.0}, "0.2", "rope type `linear`"),
        ({"rope_type": "yarn", "factor": 2.0}, "0.5", "rope type `yarn`"),
        ({"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}, "0.6", "rope parameter `mscale`"),
        (
            {"rope_type": "longrope", "short_factor": [1.0] * 64, "long_factor": [1.0] * 64},
            "auto",
            "rope type `longrope`",
        ),
    ],
)
def test_rope_that_the_engines_do_not_know(rope, version, why, save):
    folder = save()
    edit_config(folder, rope_parameters=None, rope_theta=1e4, rope_scaling=rope)
    assert why in str(refused(folder, tm_version=version))


def test_yarn_goes_where_it_is_known(save):
    folder = save()
    rope = {"rope_type": "yarn", "factor": 2.0}
    edit_config(folder, rope_parameters=None, rope_theta=1e4, rope_scaling=rope)
    assert plan(folder).dialect.release == "0.6.3"


@pytest.mark.parametrize("family", ["mistral", "phi3"])
def test_a_window_is_ignored_aloud(family, save):
    notes = plan(save(family, sliding_window=64)).notes
    assert [note.text for note in notes if note.level == "warning"] == [
        "layers attend to the last 64 tokens; TurboMind ignores that and attends to all, so"
        " longer texts will be answered differently"
    ]


def test_linears_left_in_16_bits(save):
    folder = quantize_folder(save(), left="o_proj")
    error = refused(folder, force=True)
    assert isinstance(error, InputError)
    assert "2 linears are left in 16 bits, for example `model.layers.0.self_attn.o_proj`" in str(
        error
    )


@pytest.mark.parametrize(
    ("spec", "why"),
    [(QuantSpec(bits=8), "8-bit codes"), (QuantSpec(group_size=-1), "one scale for a whole row")],
)
def test_codes_that_are_no_int4_groups(spec, why, save):
    assert why in str(refused(quantize_folder(save(), spec), force=True))


@pytest.mark.parametrize(
    ("quantized", "settings", "why"),
    [
        (False, {"model_format": "awq"}, "--model-format awq"),
        (True, {"model_format": "hf"}, "--model-format hf"),
        (True, {"group_size": 64}, "--group-size 64"),
        (False, {"group_size": 128}, "--group-size 128"),
        (True, {"dtype": "bfloat16"}, "--dtype bfloat16"),
        (False, {"tm_version": "0.7"}, "--tm-version 0.7"),
        (False, {"model_name": "a\nb = c"}, "--model-name"),
        (False, {"model_name": ""}, "--model-name"),
    ],
)
def test_flags_that_do_not_fit_the_folder(quantized, settings, why, save):
    folder = quantize_folder(save()) if quantized else save()
    error = refused(folder, **settings)
    assert isinstance(error, ConfigError)
    assert str(error).startswith(why)
    assert error.hint


def test_flags_that_say_what_the_folder_is(save):
    folder = quantize_folder(save())
    assert plan(folder, model_format="awq", group_size=128).config.weight_type == "int4"


def test_a_workspace_is_no_source(save):
    folder = save()
    workspace = convert_model(Conversion(str(folder), folder.parent / "workspace")).target
    with pytest.raises(InputError, match="is a TurboMind workspace already"):
        convert_model(Conversion(str(workspace), folder.parent / "other"))


def test_a_folder_without_a_tokenizer(save):
    folder = save(tokenizer=False)
    assert "no tokenizer" in str(refused(folder))


def test_a_name_of_a_chat_template_is_missed_aloud(save):
    folder = save()
    assert any("no --model-name" in note.text for note in plan(folder).notes)
    assert not any("--model-name" in note.text for note in plan(folder, model_name="llama2").notes)


def test_the_release_0_3_has_the_weights_of_0_2_and_dynamic_rope(save):
    folder = save()
    for version in ("0.2", "0.3"):
        convert_model(Conversion(str(folder), folder.parent / version, tm_version=version))
    old, new = (folder.parent / v / "triton_models" / "weights" for v in ("0.2", "0.3"))
    for file in sorted(new.iterdir()):
        assert (file.read_bytes() == (old / file.name).read_bytes()) == (file.name != "config.ini")
    rope = {"rope_type": "dynamic", "factor": 2.0}
    edit_config(folder, rope_parameters=None, rope_theta=1e4, rope_scaling=rope)
    assert "rope type `dynamic`" in str(refused(folder, tm_version="0.2"))
    target = folder.parent / "dynamic"
    convert_model(Conversion(str(folder), target, tm_version="0.3", model_name="llama2"))
    text = (target / "triton_models" / "weights" / "config.ini").read_text()
    assert "\nrope_scaling_factor = 2.0\nuse_dynamic_ntk = 1\nuse_logn_attn = 0\n" in text
    assert "\nsession_len = 4104\n" in text
    config = open_workspace(target).config
    assert (config.release, config.rope.kind) == ("0.3", "dynamic")


def test_a_quantized_cache_needs_an_even_head(save):
    folder = save(head_dim=127, hidden_size=254, partial_rotary_factor=64 / 127)
    error = refused(folder, cache=CacheSpec(8), force=True, tm_version="0.5")
    assert "even head size, the model has 127" in str(error)


def test_the_config_of_0_2_has_the_length_of_its_chat_template(save):
    folder = save()
    assert plan(folder, tm_version="0.2", model_name="internlm2").config.session_length == 32768
    assert plan(folder, tm_version="0.2", model_name="other").config.session_length == 2048


def test_a_full_disk_is_seen_before_anything_is_written(save, monkeypatch):
    folder = save()
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))
    assert "are needed" in str(refused(folder))


def test_golden_folders_fit_the_older_layout():
    for folder in sorted(GOLDEN.iterdir()):
        assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float16"
        planned = plan_conversion(Conversion(str(folder), Path("nowhere") / folder.name))
        assert planned.dialect.version == "0.5"
