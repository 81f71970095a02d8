"""Whole runs with compensated rounding, on every path, and what a block is calibrated on."""

import json

import pytest
import torch

from mindpress.calib.batches import Batches
from mindpress.calib.lent import stored_weights
from mindpress.calib.statistics import InputStatistics
from mindpress.calib.stream import BlockStream
from mindpress.cli.commands import run
from mindpress.errors import ConfigError, InputError, NumericError
from mindpress.events import Advanced, Note
from mindpress.formats.quantized import QuantSpec
from mindpress.lite.compensated import Compensation
from mindpress.lite.compensated_block import compensate_block
from mindpress.lite.follow import FollowedInputs, OriginalInputs
from mindpress.lite.plan import plan_quantization
from mindpress.lite.quantize import check_request, quantize_model
from mindpress.lite.recipe import Calibration, Recipe
from mindpress.lite.sites import sites_of
from mindpress.lite.task import BlockTask
from mindpress.sources.folder import open_folder
from tests.damaged_weights import damage
from tests.tiny_models import save_tiny

CPU = torch.device("cpu")
SOME = Calibration(dataset="excerpt", samples=20, length=64, batch_size=8)
PATHS = ("original", "quantized", "asymmetric")


def recipe(model, **changes):
    return Recipe(
        str(model), **({"group_size": 32, "calibration": SOME, "rounding": "compensated"} | changes)
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("path", ["quantized", "asymmetric"])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(llama, tmp_path, path):
    def stop_after_first_layer(event):
        if isinstance(event, Advanced) and event.figures and event.done == 1:
            raise KeyboardInterrupt

    wanted = recipe(llama, propagate=path)
    whole = quantize_model(wanted, tmp_path / "whole")
    assert "compensated" in whole.layers[0].method
    assert all(layer.error <= layer.plain_error for layer in whole.layers)
    with pytest.raises(KeyboardInterrupt):
        quantize_model(wanted, tmp_path / "cut", listener=stop_after_first_layer)
    left = {file.name for file in (tmp_path / ".cut.partial").iterdir()}
    assert {"followed-after-1.bin", "journal.json"} < left
    quantize_model(wanted, tmp_path / "cut")
    name = "model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not any("states" in f.name or "followed" in f.name for f in (tmp_path / "cut").iterdir())


def test_damaged_hidden_states_of_an_interrupted_run_are_named(llama, tmp_path):
    def stop(event):
        if isinstance(event, Advanced) and event.figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_model(recipe(llama), tmp_path / "awq", listener=stop)
    kept = tmp_path / ".awq.partial" / "followed-after-1.bin"
    kept.write_bytes(kept.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"followed-after-1.bin.* damaged") as caught:
        quantize_model(recipe(llama), tmp_path / "awq")
    assert "--overwrite" in caught.value.hint


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "internlm2", "phi3"])
def test_biases_added_norms_and_fused_linears_are_followed(family, tmp_path):
    folder = save_tiny(family, tmp_path / family, num_hidden_layers=1)
    (layer,) = quantize_model(recipe(folder), tmp_path / "awq").layers
    assert "compensated" in layer.method
    assert layer.error < layer.plain_error
    assert open_folder(tmp_path / "awq").spec is not None


def test_one_sample_and_fewer_tokens_than_inputs_are_enough(llama, tmp_path):
    few = Calibration(dataset="excerpt", samples=1, length=8)
    report = quantize_model(recipe(llama, calibration=few), tmp_path / "awq")
    assert all(layer.error <= layer.plain_error for layer in report.layers)


@pytest.fixture
def block(llama):
    stream = BlockStream(open_folder(llama), CPU, torch.float32)
    with stream.block(0) as live:
        yield live


def hidden_pair():
    generator = torch.Generator().manual_seed(3)
    aims = torch.randn(5, 12, 128, generator=generator)
    return aims, aims + 0.1 * torch.randn(aims.shape, generator=generator)


def fed(block, modules, hidden):
    """What modules of a block are fed in one whole forward, in float64."""
    seen = {}

    def keep(module, inputs):
        seen[module] = inputs[0].flatten(0, -2).double()

    watched = [block.module.get_submodule(name) for name in modules]
    hooks = [module.register_forward_pre_hook(keep) for module in watched]
    block.run(hidden)
    for hook in hooks:
        hook.remove()
    return [seen[module] for module in watched]


def test_moments_are_those_of_whole_forwards_of_both_blocks(block):
    """With the query replaced, against all inputs captured in one forward each."""
    aims, hidden = hidden_pair()
    stored = stored_weights(block, (x.name for x in block.stream.runs.block.linears))
    inputs = FollowedInputs(block.copy(), stored, hidden, block, aims, Batches(2, print, hint=""))
    query = torch.randn(128, 128, generator=torch.Generator().manual_seed(1)) * 0.05
    whole = block.copy()
    whole.module.get_submodule("self_attn.q_proj").weight.data = query.clone()
    with inputs.begun():
        inputs.replace("self_attn.q_proj", lambda: query)
        for site in sites_of(block.stream.runs.block):
            modules = (site.linears[0].name, site.residual or site.linears[0].name)
            x, rx = fed(whole, modules, hidden)
            t, rt = fed(block, modules, aims)
            found = inputs.at(site)
            expected = {"hessian": x.t() @ x, "drift": (t - x).t() @ x}
            if site.residual:
                expected["gap"] = (rt - rx).t() @ x
            else:
                assert found.gap is None
            for part, value in expected.items():
                atol = float(value.abs().max()) * 1e-5
                torch.testing.assert_close(
                    getattr(found, part), value.float(), rtol=1e-3, atol=atol
                )


def test_a_block_is_begun_as_the_original_whatever_was_put_into_it(block):
    _, hidden = hidden_pair()
    stored = stored_weights(block, (x.name for x in block.stream.runs.block.linears))
    follower = block.copy()
    for parameter in follower.module.parameters():
        parameter.data = torch.full_like(parameter, torch.nan)
    inputs = FollowedInputs(follower, stored, hidden, None, None, Batches(2, print, hint=""))
    for _ in range(2):
        with inputs.begun():
            assert torch.equal(follower.run(hidden), block.run(hidden))
            inputs.replace("mlp.down_proj", lambda: torch.full((128, 256), torch.nan))
    assert follower.module.get_parameter("mlp.down_proj.weight").numel() == 0


def test_without_an_original_there_is_nothing_to_aim_at(block):
    _, hidden = hidden_pair()
    stored = stored_weights(block, (x.name for x in block.stream.runs.block.linears))
    inputs = FollowedInputs(block, stored, hidden, None, None, Batches(8, print, hint=""))
    with inputs.begun():
        found = inputs.at(sites_of(block.stream.runs.block)[1])
    assert (found.drift, found.gap) == (None, None)


def test_damping_that_had_to_be_raised_is_told(block):
    linears = frozenset(linear.name for linear in block.stream.runs.block.linears)
    task = BlockTask(
        block.stream.runs.block, block.stream.source.shape, QuantSpec(4, 32), linears, 0.0,
        torch.float16, CPU, Compensation(damping=0.0),
    )  # fmt: skip
    seen = {}
    for site in task.sites():
        width = task.shape.columns[site.linears[0].roles[0]]
        seen[site.name] = InputStatistics(width, CPU)
        seen[site.name].add(torch.randn(9, width, generator=torch.Generator().manual_seed(0)))
    weights = block.stream.weights(0)
    result = compensate_block(weights, task, {}, OriginalInputs(seen), "compensated").codes
    assert len(result.notes) == 4
    assert all("damping raised to" in note for note in result.notes)
    assert result.notes[0].startswith("attention inputs")


@pytest.mark.parametrize("path", PATHS)
def test_activations_that_overflow_name_the_layer(tmp_path, path):
    folder = save_tiny("llama", tmp_path / "m", dtype=torch.float32, num_hidden_layers=2)
    damage(folder, **{"model.layers.0.mlp.down_proj.weight": lambda t: t * 1e30,
                      "model.layers.0.mlp.up_proj.weight": lambda t: t * 1e30})  # fmt: skip
    with pytest.raises(NumericError, match=r"layer [01]"):
        quantize_model(recipe(folder, propagate=path), tmp_path / "awq")
    assert not (tmp_path / "awq").exists()


def test_both_paths_are_counted_in_the_plan(llama):
    plans = {path: plan_quantization(recipe(llama, propagate=path)) for path in PATHS}
    one = 20 * 64 * 128 * 2
    assert [plans[path].hidden_bytes for path in PATHS] == [one, one, 2 * one]
    nearest = plan_quantization(recipe(llama, rounding="nearest"))
    assert nearest.peak_memory <= plans["original"].peak_memory
    assert plans["original"].peak_memory + one < plans["asymmetric"].peak_memory


@pytest.mark.parametrize("wrong", [
    {"rounding": "nearest", "propagate": "asymmetric"}, {"rounding": "nearest", "refine": 1},
    {"refine": -1},
], ids=str)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(ConfigError, match="--"):
        Recipe("model", **wrong)


def test_the_command_takes_the_new_settings(llama, tmp_path, capsys):
    small = ["--calib-dataset", "excerpt", "--calib-samples", "20", "--calib-seqlen", "64",
             "--batch-size", "8", "--w-group-size", "32", "--json", "--quiet"]  # fmt: skip
    command = ["lite", "auto_awq", str(llama), "--work-dir", str(tmp_path / "out"), *small]
    assert run([*command, "--rounding", "compensated", "--propagate", "quantized"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"]["propagate"] == "quantized"
    assert "compensated" in report["layers"][0]["method"]
    assert report["mean_error"] < report["mean_plain_error"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--rounding compensated --propagate quantized --refine 2" in card
    assert run([*command, "--rounding", "nearest", "--propagate", "quantized"]) == 2
    assert "needs --rounding compensated" in capsys.readouterr().err


def test_few_tokens_are_said_and_raise_the_damping(llama, tmp_path):
    notes = []
    few = Calibration(dataset="excerpt", samples=2, length=64)
    check_request(recipe(llama, calibration=few), tmp_path / "awq", listener=notes.append)
    told = [note.text for note in notes if isinstance(note, Note)]
    assert any(text.startswith("64 calibration tokens are few for 256 inputs") for text in told)
    assert any("damping is raised to 0.04" in text for text in told)
    enough = Calibration(dataset="excerpt", samples=8, length=64)
    notes.clear()
    check_request(recipe(llama, calibration=enough), tmp_path / "awq", listener=notes.append)
    assert not any("tokens are few" in note.text for note in notes if isinstance(note, Note))


def test_damping_grows_where_tokens_are_fewer_than_inputs():
    options = Compensation(damping=0.01, tokens=100)
    assert [options.damping_of(n) for n in (50, 100, 400)] == pytest.approx([0.01, 0.01, 0.04])
    assert Compensation(damping=0.01).damping_of(400) == 0.01
