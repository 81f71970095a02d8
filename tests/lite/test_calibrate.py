"""The whole run on tiny models: what is found in the folder, against transformers' own forward."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from mindpress.calib.datasets import calibration_tokens
from mindpress.calib.statistics_file import StatisticsWriter, load_statistics
from mindpress.checkpoint.companions import load_tokenizer
from mindpress.errors import ConfigError, InputError, LockedError
from mindpress.events import Advanced, Note
from mindpress.lite.calibrate import calibrate_model
from mindpress.lite.calibration_plan import check_calibration
from mindpress.models.registry import describe
from mindpress.sources.folder import open_folder
from mindpress.sources.signature import cache_signature
from tests.short_runs import FEW, run_of
from tests.tiny_awq import quantize_folder
from tests.tiny_models import FAMILIES, edit_config, save_tiny, tiny_model

FILES = ("statistics.json", "statistics.safetensors", "manifest.json")


@pytest.fixture(scope="module")
def calibrated(llama, tmp_path_factory):
    return calibrate_model(run_of(llama), tmp_path_factory.mktemp("out") / "statistics")


def watched(model, linears, tokens):
    """Inputs and outputs of the linears by layer and name, keys and values by layer."""
    decoder, seen, caches = model.get_decoder(), {}, []

    def watch(place):
        def hook(module, inputs, output):
            for side, x in (("input", inputs[0]), ("output", output)):
                seen.setdefault((*place, side), []).append(x.flatten(0, -2))

        return hook

    for index, layer in enumerate(decoder.layers):
        for name in linears:
            layer.get_submodule(name).register_forward_hook(watch((index, name)))
    for batch in tokens.split(FEW.batch_size):
        caches.append(DynamicCache())
        with torch.no_grad():
            decoder(batch, past_key_values=caches[-1], use_cache=True)
    cached = [
        [
            torch.cat([getattr(c.layers[i], part) for c in caches])
            for i in range(len(decoder.layers))
        ]
        for part in ("keys", "values")
    ]
    return {place: torch.cat(parts) for place, parts in seen.items()}, cached


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_a_whole_forward(family, tmp_path):
    folder = save_tiny(family, tmp_path / "m", dtype=torch.float32)
    report = calibrate_model(run_of(folder), tmp_path / "out")
    found = load_statistics(tmp_path / "out")
    source = open_folder(folder)
    tokens = calibration_tokens("excerpt", load_tokenizer(folder), 5, 48, seed=0)
    architecture = source.architecture
    runs = describe(architecture.runs_as or architecture.hf_class).block
    names = [linear.name for linear in runs.linears]
    seen, (keys, values) = watched(tiny_model(family, dtype=torch.float32), names, tokens)
    assert set(found.header.linears) == set(names)
    for (index, name, side), rows in seen.items():
        ours = found.linear(index, name, side)
        assert torch.equal(ours["min"], rows.amin(0))
        assert torch.equal(ours["max"], rows.amax(0))
        assert torch.equal(ours["absmax"], rows.abs().amax(0))
        torch.testing.assert_close(
            ours["mean"], rows.double().mean(0).float(), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(ours["absmean"], rows.double().abs().mean(0).float())
    for ours, theirs in ((found.ranges.keys, keys), (found.ranges.values, values)):
        assert torch.equal(ours.low, torch.stack([x.amin((0, 2)) for x in theirs]))
        assert torch.equal(ours.high, torch.stack([x.amax((0, 2)) for x in theirs]))
    assert torch.equal(found.tensor("layers.1.keys.absmax"), keys[1].abs().amax((0, 2)))
    wide = max(range(2), key=lambda i: keys[i].max() - keys[i].min())
    assert (report.keys.layer, report.keys.low) == (wide, float(keys[wide].min()))
    assert report.keys.high == float(keys[wide].max())


def test_the_header_says_what_was_calibrated_with_what(llama, calibrated):
    header = calibrated.header
    assert header == load_statistics(calibrated.target).header
    assert header.model == str(llama)
    assert header.signature == cache_signature(open_folder(llama))
    assert (header.family, header.layers) == ("LlamaForCausalLM", 2)
    assert (header.kv_heads, header.head_dim) == (2, 32)
    assert (header.dataset, header.samples, header.length, header.seed) == ("excerpt", 5, 48, 0)
    assert header.tokens == 240
    assert header.clamped == ()
    assert {"mindpress", "torch", "transformers"} == set(header.versions)
    assert sorted(file.name for file in calibrated.target.iterdir()) == sorted(FILES)
    assert not list(calibrated.target.parent.glob(".*partial"))


def test_only_the_cache_is_recorded_when_asked(llama, calibrated, tmp_path):
    report = calibrate_model(run_of(llama, cache_only=True), tmp_path / "out")
    found = load_statistics(tmp_path / "out")
    assert found.header.linears == {}
    assert len(load_file(tmp_path / "out" / FILES[1])) == 2 * 2 * 3
    both = (found.ranges, load_statistics(calibrated.target).ranges)
    for part in ("keys", "values"):
        cache, whole = (getattr(ranges, part) for ranges in both)
        assert torch.equal(cache.low, whole.low)
        assert torch.equal(cache.high, whole.high)
    assert (report.keys, report.values) == (calibrated.keys, calibrated.values)
    with pytest.raises(ConfigError, match="q_proj"):
        found.linear(0, "self_attn.q_proj", "input")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(llama, calibrated, tmp_path):
    def stop_after_first_layer(event):
        if isinstance(event, Advanced) and event.figures and event.done == 1:
            raise KeyboardInterrupt

    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        calibrate_model(run_of(llama), target, listener=stop_after_first_layer)
    assert not target.exists()
    with pytest.raises(ConfigError, match="other settings"):
        calibrate_model(run_of(llama, cache_only=True), target)
    events = []
    calibrate_model(run_of(llama), target, listener=events.append)
    assert any(isinstance(e, Note) and "after layer 1" in e.text for e in events)
    for name in FILES:
        assert (target / name).read_bytes() == (calibrated.target / name).read_bytes()


def test_a_run_killed_at_its_end_goes_on_too(llama, calibrated, tmp_path, monkeypatch):
    """Killed after the file is closed, before the folder has its name."""
    original = StatisticsWriter.finish

    def killed(self, *arguments):
        original(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StatisticsWriter, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrate_model(run_of(llama), tmp_path / "out")
    calibrate_model(run_of(llama), tmp_path / "out")
    for file in FILES:
        assert (tmp_path / "out" / file).read_bytes() == (calibrated.target / file).read_bytes()
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(FILES)


def test_an_awq_folder_is_calibrated_as_what_its_codes_stand_for(tmp_path):
    folder = quantize_folder(save_tiny("internlm2", tmp_path / "m"))
    source = open_folder(folder)
    tensors = {n: source.checkpoint.tensor(n).float() for n in source.checkpoint.tensors
               if not n.endswith(("qweight", "qzeros", "scales"))}  # fmt: skip
    for name in [n.removesuffix(".qweight") for n in source.checkpoint.tensors if "qweight" in n]:
        tensors[f"{name}.weight"] = source.linear(name).weight.dequantize(torch.float32)
    twin = save_tiny("internlm2", tmp_path / "twin", dtype=torch.float32)
    # In between two blocks a folder in halves keeps halves.
    tensors["model.tok_embeddings.weight"] = tensors["model.tok_embeddings.weight"].half()
    save_file(tensors, twin / "model.safetensors", metadata={"format": "pt"})
    calibrate_model(run_of(folder), tmp_path / "codes")
    calibrate_model(run_of(twin), tmp_path / "floats")
    assert (tmp_path / "codes" / FILES[1]).read_bytes() == (
        tmp_path / "floats" / FILES[1]
    ).read_bytes()


def test_everything_is_checked_before_a_weight_is_read(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("mindpress.checkpoint.reader.Checkpoint.tensor", lambda *_: 1 / 0)
    request = check_calibration(run_of(llama), tmp_path / "out")
    assert json.loads(json.dumps(request.as_dict()))["linears"][0] == "self_attn.q_proj"
    assert list(tmp_path.iterdir()) == []


def test_the_plan_foretells_the_bytes(llama, calibrated):
    request = check_calibration(run_of(llama), calibrated.target.parent / "new")
    tensors = load_file(calibrated.target / FILES[1])
    assert request.nbytes == sum(t.nbytes for t in tensors.values())


def test_an_odd_head_size_is_refused(llama, tmp_path):
    folder = save_tiny("llama", tmp_path / "m", head_dim=30)
    edit_config(folder, head_dim=15)
    tensors = load_file(folder / "model.safetensors")
    halved = {n: t[: t.shape[0] // 2] if any(f"{p}_proj" in n for p in "qkv") else t
              for n, t in tensors.items()}  # fmt: skip
    halved |= {n: t[:, :60].contiguous() for n, t in tensors.items() if "o_proj" in n}
    save_file({n: t.contiguous() for n, t in halved.items()}, folder / "model.safetensors")
    with pytest.raises(InputError, match="15 channels"):
        check_calibration(run_of(folder), tmp_path / "out")


def test_statistics_are_replaced_only_when_asked_and_nothing_else_ever(llama, tmp_path):
    target = tmp_path / "out"
    calibrate_model(run_of(llama, cache_only=True), target)
    with pytest.raises(ConfigError, match="not empty"):
        calibrate_model(run_of(llama), target)
    calibrate_model(run_of(llama), target, overwrite=True)
    assert load_statistics(target).header.linears
    with pytest.raises(ConfigError, match="not replaced"):
        calibrate_model(run_of(llama), llama, overwrite=True)


def test_a_second_run_on_the_same_output_stops(llama, tmp_path):
    def another(event):
        if isinstance(event, Advanced) and event.figures and event.done == 1:
            with pytest.raises(LockedError):
                calibrate_model(run_of(llama), tmp_path / "out")

    calibrate_model(run_of(llama), tmp_path / "out", listener=another)


def test_hidden_states_in_a_file_give_the_same_and_leave_nothing(
    llama, calibrated, tmp_path, monkeypatch
):
    monkeypatch.setattr("mindpress.calib.hidden.SHARE_OF_MEMORY", 0.0)
    calibrate_model(run_of(llama), tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(FILES)
    file = FILES[1]
    assert (tmp_path / "out" / file).read_bytes() == (calibrated.target / file).read_bytes()
