"""The course of a run on tiny models: planned, refused, interrupted and taken up again."""

import json

import pytest
import torch

from mindpress.checkpoint.reader import open_checkpoint
from mindpress.checkpoint.verify import verify
from mindpress.errors import ConfigError, InputError, LockedError, NumericError, ResourceError
from mindpress.events import Advanced, Note
from mindpress.lite.plan import plan_quantization
from mindpress.lite.quantize import quantize_model
from mindpress.lite.recipe import Calibration
from tests.damaged_weights import damage
from tests.short_runs import recipe
from tests.tiny_models import edit_config, save_tiny


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_quantizing_twice_gives_the_same_bytes(llama, quantized, tmp_path):
    quantize_model(recipe(llama), tmp_path / "again")
    assert files(tmp_path / "again") == files(quantized.target)
    assert verify(tmp_path / "again") == len(files(quantized.target)) - 1


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(llama, quantized, tmp_path):
    target = tmp_path / "awq"

    def stop_after_first_layer(event):
        if isinstance(event, Advanced) and event.figures and event.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(recipe(llama), target, listener=stop_after_first_layer)
    assert not target.exists()
    events = []
    quantize_model(recipe(llama), target, listener=events.append)
    assert any(isinstance(e, Note) and "after layer 1" in e.text for e in events)
    assert files(target) == files(quantized.target)
    assert [path.name for path in tmp_path.iterdir()] == ["awq"]


def test_an_interrupted_run_is_not_resumed_with_other_settings(llama, tmp_path):
    def stop(event):
        if isinstance(event, Advanced) and event.figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(recipe(llama), tmp_path / "awq", listener=stop)
    with pytest.raises(ConfigError, match="other settings"):
        quantize_model(recipe(llama, group_size=64), tmp_path / "awq")
    quantize_model(recipe(llama, group_size=64), tmp_path / "awq", overwrite=True)


def test_a_changed_input_is_another_request(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")

    def stop(event):
        if isinstance(event, Advanced) and event.figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(recipe(folder), tmp_path / "awq", listener=stop)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ConfigError, match="another model"):
        quantize_model(recipe(folder), tmp_path / "awq")


def test_the_same_command_with_overwrite_goes_on_too(llama, quantized, tmp_path):
    def stop(event):
        if isinstance(event, Advanced) and event.figures:
            raise KeyboardInterrupt

    quantize_model(recipe(llama, group_size=64), tmp_path / "awq")
    with pytest.raises(KeyboardInterrupt):
        quantize_model(recipe(llama), tmp_path / "awq", overwrite=True, listener=stop)
    events = []
    quantize_model(recipe(llama), tmp_path / "awq", overwrite=True, listener=events.append)
    assert any(isinstance(e, Note) and "after layer 1" in e.text for e in events)
    assert files(tmp_path / "awq") == files(quantized.target)


def test_a_group_that_fits_nothing_offers_divisors(llama, tmp_path):
    with pytest.raises(ConfigError, match="divides no input width") as caught:
        quantize_model(recipe(llama, group_size=96), tmp_path / "awq")
    assert "64" in caught.value.hint


def test_a_long_sample_is_clamped_aloud(llama, tmp_path):
    events = []
    long = Calibration(dataset="excerpt", samples=2, length=4096)
    quantize_model(recipe(llama, calibration=long), tmp_path / "a", listener=events.append)
    assert any(isinstance(e, Note) and "512 is used" in e.text for e in events)


def test_the_plan_foretells_the_bytes(llama, quantized):
    plan = plan_quantization(recipe(llama))
    assert plan.bytes_after == open_checkpoint(quantized.target).nbytes
    assert json.loads(json.dumps(plan.as_dict()))["layers"] == 2


def with_nan(tensor):
    tensor.view(-1)[7] = float("nan")
    return tensor


def test_damage_is_found_before_anything_is_written(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    damage(folder, **{"model.layers.1.self_attn.q_proj.weight": with_nan})
    with pytest.raises(NumericError, match=r"layers\.1\.self_attn\.q_proj"):
        quantize_model(recipe(folder), tmp_path / "awq")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["m"]


def test_activations_that_overflow_name_the_layer(tmp_path):
    folder = save_tiny("llama", tmp_path / "m", dtype=torch.float32)
    damage(folder, **{"model.layers.0.mlp.down_proj.weight": lambda t: t * 1e30,
                      "model.layers.0.mlp.up_proj.weight": lambda t: t * 1e30})  # fmt: skip
    with pytest.raises(NumericError, match=r"layer [01]"):
        quantize_model(recipe(folder), tmp_path / "awq")
    assert not (tmp_path / "awq").exists()


def test_a_quantized_model_is_not_quantized_again(quantized, tmp_path):
    with pytest.raises(InputError, match="quantized already"):
        quantize_model(recipe(quantized.target), tmp_path / "awq")


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    folder = save_tiny("llama", tmp_path / "m", tokenizer=False)
    with pytest.raises(InputError, match="no tokenizer"):
        quantize_model(recipe(folder), tmp_path / "awq")


def test_an_unknown_family_names_the_closest(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    edit_config(folder, architectures=["LlammaForCausalLM"])
    with pytest.raises(InputError) as caught:
        quantize_model(recipe(folder), tmp_path / "awq")
    assert "LlamaForCausalLM" in caught.value.hint


def test_a_folder_that_is_not_empty_is_kept(llama, tmp_path):
    (tmp_path / "awq").mkdir()
    (tmp_path / "awq" / "thesis.txt").write_text("three years")
    with pytest.raises(ConfigError, match="not empty"):
        quantize_model(recipe(llama), tmp_path / "awq")
    with pytest.raises(ConfigError, match="not replaced"):
        quantize_model(recipe(llama), tmp_path / "awq", overwrite=True)
    assert (tmp_path / "awq" / "thesis.txt").read_text() == "three years"


def test_a_place_that_cannot_be_written_is_found_first(llama, tmp_path):
    from pathlib import Path

    with pytest.raises(ResourceError, match="/proc"):
        quantize_model(recipe(llama), Path("/proc/awq"))


def test_a_second_run_on_the_same_output_stops(llama, tmp_path):
    def another(event):
        if isinstance(event, Advanced) and event.figures and event.done == 1:
            with pytest.raises(LockedError):
                quantize_model(recipe(llama), tmp_path / "awq")

    quantize_model(recipe(llama), tmp_path / "awq", listener=another)


def test_the_model_is_never_its_own_output(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="not replaced"):
        quantize_model(recipe(folder), folder, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"length": 0}, {"batch_size": 0}], ids=str)
def test_calibration_needs_positive_numbers(wrong):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        Calibration(**wrong)


def test_a_damaged_journal_is_named(llama, tmp_path):
    def stop(event):
        if isinstance(event, Advanced) and event.figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(recipe(llama), tmp_path / "awq", listener=stop)
    (tmp_path / ".awq.partial" / "journal.json").write_text("{half")
    with pytest.raises(InputError, match="damaged"):
        quantize_model(recipe(llama), tmp_path / "awq")
    quantize_model(recipe(llama), tmp_path / "awq", overwrite=True)


def test_a_refused_run_leaves_no_folder(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    damage(folder, **{"model.layers.1.self_attn.q_proj.weight": with_nan})
    with pytest.raises(NumericError):
        quantize_model(recipe(folder), tmp_path / "deep" / "er" / "awq")
    assert not (tmp_path / "deep").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = save_tiny("llama", tmp_path / "m", vocab_size=256)
    with pytest.raises(InputError, match="the model only 256"):
        quantize_model(recipe(folder), tmp_path / "awq")
