"""Scales of a cache in a workspace: what LMDeploy reads, and the finer ones beside it."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny
from tiny_ranges import GOLDEN_KV, golden_ranges, random_ranges

from mindpress.convert.cache_output import check_cache_target, write_cache_scales
from mindpress.convert.convert import convert_model, plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError, InputError, NumericError, ResourceError
from mindpress.formats.cache_scales import CacheRanges, Ranges, scales_of
from mindpress.formats.cache_spec import CacheSpec
from mindpress.sources.cache_file import CACHE_FILE, read_cache_file, read_cache_scales
from mindpress.sources.fingerprint import model_fingerprint
from mindpress.sources.folder import open_folder
from mindpress.sources.signature import cache_signature
from mindpress.sources.workspace import open_workspace

# Two layers with two kv heads of 128, as the golden statistics have.
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 101,
}
TENSOR8, HEAD8 = CacheSpec(8, False, "tensor"), CacheSpec(8, False, "head")
CHANNEL4 = CacheSpec(4, True, "channel")
ORIGIN = {"dataset": "excerpt", "samples": "4"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("model") / "model", **SIZES)


@pytest.fixture(scope="module")
def signature(model):
    return cache_signature(open_folder(model))


@pytest.fixture
def convert(model, tmp_path):
    def run(version="0.5", tp=1, name="workspace", source=model, **settings):
        target = tmp_path / name
        settings = Conversion(str(source), target, tp=tp, tm_version=version, **settings)
        return convert_model(settings).target

    return run


def weights_of(workspace: Path) -> Path:
    return workspace / "triton_models" / "weights"


def contents(workspace: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(workspace)): file.read_bytes()
        for file in sorted(workspace.rglob("*"))
        if file.is_file()
    }


def policy(workspace: Path) -> str:
    lines = (weights_of(workspace) / "config.ini").read_text().splitlines()
    return next(line for line in lines if line.startswith("quant_policy"))


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("version", ["0.2", "0.3"])
@pytest.mark.parametrize("granularity", ["tensor", "head", "channel", "token"])
def test_the_files_are_those_of_lmdeploy(granularity, version, tp, convert, signature):
    workspace, ranges = convert(version, tp), golden_ranges()
    before = contents(workspace)
    spec = CacheSpec(8, granularity=granularity)
    written = write_cache_scales(workspace, ranges, spec, ORIGIN, signature)
    after = contents(workspace)
    assert {str(file.relative_to(workspace)) for file in written} == {
        name for name in after if after[name] != before.get(name)
    }
    golden = sorted((GOLDEN_KV / f"llama128.tp{tp}.asym").iterdir())
    assert len(golden) == 2 * tp
    for file in golden:
        name = f"triton_models/weights/{file.name}"
        assert after.pop(name) == file.read_bytes()
    side, config = f"triton_models/{CACHE_FILE}", "triton_models/weights/config.ini"
    assert after.pop(side)
    changed = before.pop(config).replace(b"quant_policy = 0\n", b"quant_policy = 4\n")
    assert after.pop(config) == changed
    assert after == before
    same_scales(read_cache_scales(open_workspace(workspace)), scales_of(ranges, spec, 128, tp))


def same_scales(found, expected):
    assert found.spec == expected.spec
    for ours, theirs in ((found.keys, expected.keys), (found.values, expected.values)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert torch.equal(ours.scale, theirs.scale)
            assert torch.equal(ours.zero, theirs.zero)


@pytest.mark.parametrize(
    ("version", "spec", "line"),
    [
        ("0.5", HEAD8, "quant_policy = 8"),
        ("0.5", CHANNEL4, "quant_policy = 4"),
        ("0.6", CHANNEL4, None),
    ],
)
def test_newer_releases_get_a_number_at_most(version, spec, line, convert, signature):
    workspace, notes = convert(version), []
    stale = weights_of(workspace) / "layers.0.past_kv_scale.0.weight"
    stale.write_bytes(bytes(16))
    before = contents(workspace)
    write_cache_scales(workspace, random_ranges(), spec, ORIGIN, signature, notes.append)
    after = contents(workspace)
    assert not stale.exists()
    assert after.keys() - before.keys() == {f"triton_models/{CACHE_FILE}"}
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    if line:
        assert changed == {"triton_models/weights/config.ini"}
        assert policy(workspace) == line
    else:
        assert changed == set()
        assert any(f"--quant-policy {spec.bits}" in note.text for note in notes)
    opened = open_workspace(workspace)
    assert opened.problems == ()
    assert opened.config.cache_bits == (spec.bits if line else None)
    same_scales(read_cache_scales(opened), scales_of(random_ranges(), spec, 128))
    stored = read_cache_file(workspace)
    assert (stored.origin, stored.fingerprint) == (ORIGIN, model_fingerprint(opened))


def test_the_same_scales_again_change_no_byte(convert, signature):
    workspace = convert("0.3", 2)
    write_cache_scales(workspace, random_ranges(), HEAD8, ORIGIN, signature)
    first = contents(workspace)
    write_cache_scales(workspace, random_ranges(), HEAD8, ORIGIN, signature)
    assert contents(workspace) == first
    write_cache_scales(workspace, random_ranges(), TENSOR8, ORIGIN, signature)
    assert contents(workspace).keys() == first.keys()
    assert read_cache_file(workspace).scales.spec == TENSOR8


@pytest.mark.parametrize("inner", ["triton_models/weights", "triton_models", "."])
def test_a_workspace_may_be_named_by_an_inner_folder(inner, convert, signature, monkeypatch):
    workspace = convert("0.2")
    write_cache_scales(workspace / inner, random_ranges(), HEAD8, ORIGIN, signature)
    assert read_cache_file(workspace) is not None
    monkeypatch.chdir(weights_of(workspace))
    assert check_cache_target(Path(), HEAD8).folder == workspace


def test_no_workspace_and_a_cache_that_the_release_has_not(convert, tmp_path):
    with pytest.raises(InputError, match="no TurboMind workspace") as caught:
        check_cache_target(tmp_path / "none", HEAD8)
    assert "mindpress convert" in caught.value.hint
    for version in ("0.2", "0.3"):
        workspace = convert(version, name=version)
        with pytest.raises(ConfigError, match="has no int4 cache") as wrong:
            check_cache_target(workspace, CHANNEL4)
        assert wrong.value.hint == "convert with --tm-version 0.5"


def test_another_model_and_other_shapes_are_refused(convert, signature, tmp_path):
    other = save_tiny("llama", tmp_path / "other", seed=1, **SIZES)
    workspace = convert("0.2")
    before = contents(workspace)
    check_cache_target(workspace, HEAD8, signature)
    strange = cache_signature(open_folder(other))
    with pytest.raises(InputError, match="holds another model"):
        write_cache_scales(workspace, random_ranges(), HEAD8, ORIGIN, strange)
    for shape in ((1, 2, 128), (2, 1, 128), (2, 2, 64)):
        with pytest.raises(InputError, match=r"the model has \[2, 2, 128\]"):
            write_cache_scales(workspace, random_ranges(*shape), HEAD8, ORIGIN, signature)
    assert contents(workspace) == before


@pytest.mark.parametrize(
    ("low", "high", "version", "error", "named"),
    [
        (float("nan"), 1.0, "0.5", NumericError, "layer 1: NaN or infinite ranges of values"),
        (-1.0, float("inf"), "0.2", NumericError, "layer 1: NaN or infinite ranges of values"),
        (2.0, 1.0, "0.5", InputError, "layer 1: ranges of values end before they begin"),
        (-1e5, 1e5, "0.3", NumericError, "layer 1: keys or values leave the float16"),
    ],
)
def test_values_that_cannot_be_scaled(low, high, version, error, named, convert, signature):
    workspace, ranges = convert(version), random_ranges()
    before = contents(workspace)
    ranges.values.low[1, 0, 5], ranges.values.high[1, 0, 5] = low, high
    with pytest.raises(error, match=named):
        write_cache_scales(workspace, ranges, HEAD8, ORIGIN, signature)
    assert contents(workspace) == before


def test_constant_values_get_a_scale_that_divides(convert, signature):
    workspace, notes = convert("0.2"), []
    constant = torch.full((2, 2, 128), 0.5)
    ranges = CacheRanges(random_ranges().keys, Ranges(constant, constant))
    write_cache_scales(workspace, ranges, TENSOR8, ORIGIN, signature, notes.append)
    assert any("2 scales are of keys or values that never change" in n.text for n in notes)
    (workspace / "triton_models" / CACHE_FILE).unlink()
    values = read_cache_scales(open_workspace(workspace)).values
    assert torch.equal(values.scale, torch.ones(2, 2, 1))
    assert torch.equal(values.zero, torch.full((2, 2, 1), 0.5))


def test_a_workspace_that_cannot_be_written_is_seen_at_once(convert, monkeypatch):
    workspace = convert("0.5")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ResourceError, match="Permission denied"):
        check_cache_target(workspace, HEAD8)


def test_an_interrupted_run_leaves_the_policy_as_it_was(convert, signature, monkeypatch):
    workspace = convert("0.2")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mindpress.convert.cache_output.write_cache_file", stop)
    with pytest.raises(KeyboardInterrupt):
        write_cache_scales(workspace, random_ranges(), HEAD8, ORIGIN, signature)
    assert policy(workspace) == "quant_policy = 0"
    open_workspace(workspace)


@pytest.mark.parametrize("kind", ["floats", "awq"])
@pytest.mark.parametrize(
    ("version", "tp", "spec"), [("0.2", 2, HEAD8), ("0.5", 1, CHANNEL4), ("0.6", 2, TENSOR8)]
)
def test_a_conversion_writes_what_the_two_steps_write(kind, version, tp, spec, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    if kind == "awq":
        quantize_folder(folder)
    plain = Conversion(str(folder), tmp_path / "plain", tp=tp, tm_version=version)
    convert_model(plain)
    found = cache_signature(open_folder(folder))
    write_cache_scales(plain.target, random_ranges(), spec, ORIGIN, found)
    whole = Conversion(str(folder), tmp_path / "whole", tp=tp, tm_version=version, cache=spec)
    report = convert_model(whole, ranges=random_ranges(), origin=ORIGIN)
    written = contents(whole.target)
    assert written == contents(plain.target)
    assert report.files == len(written)
    assert report.bytes == sum(map(len, written.values()))
    assert report.as_dict()["cache"]["granularity"] == spec.granularity
    assert (open_workspace(whole.target).config.spec is not None) == (kind == "awq")


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_per_token_need_no_ranges(bits, model, tmp_path):
    spec = CacheSpec(bits)
    convert_model(Conversion(str(model), tmp_path / "ws", tm_version="0.5", cache=spec))
    assert policy(tmp_path / "ws") == f"quant_policy = {bits}"
    scales = read_cache_scales(open_workspace(tmp_path / "ws"))
    assert (scales.spec, scales.keys, scales.values) == (spec, None, None)


@pytest.mark.parametrize(
    ("version", "spec", "calibrated", "why", "hint"),
    [
        ("0.3", CacheSpec(4), False, "--kv-bits 4: LMDeploy 0.3.0 has no int4 cache", "0.5"),
        ("0.2", CacheSpec(8), False, "LMDeploy 0.2.6 needs calibrated scales", "--calib"),
        ("0.5", HEAD8, False, "--granularity head needs calibrated ranges", "--calib"),
        ("0.5", CacheSpec(8), True, "--granularity token: ", "or leave out --calib"),
        ("0.5", None, True, "--calib: a 16-bit cache", "--kv-bits"),
    ],
)
def test_a_plan_refuses_what_cannot_be(version, spec, calibrated, why, hint, model, tmp_path):
    settings = Conversion(str(model), tmp_path / "ws", tm_version=version, cache=spec)
    with pytest.raises(ConfigError) as caught:
        plan_conversion(settings, calibrated=calibrated)
    assert why in str(caught.value)
    assert hint in caught.value.hint


def test_ranges_of_another_model_leave_nothing(model, tmp_path):
    settings = Conversion(str(model), tmp_path / "out" / "ws", cache=HEAD8)
    with pytest.raises(InputError, match="calibrated ranges of keys"):
        convert_model(settings, ranges=random_ranges(3))
    assert not (tmp_path / "out").exists()


def test_notes_tell_who_reads_the_number(model, tmp_path):
    settings = Conversion(str(model), tmp_path / "ws", cache=CacheSpec(8))
    texts = [note.text for note in plan_conversion(settings).notes]
    assert texts[0] == "writing config.ini, which LMDeploy 0.4 to 0.5 reads"
    assert any(text.startswith("int8 cache (`quant_policy = 8`): LMDeploy 0.4") for text in texts)


def test_a_type_that_the_source_has_not_keeps_the_side_file_readable(model, tmp_path):
    """The fingerprint is of the written floats, which --dtype may round."""
    settings = Conversion(str(model), tmp_path / "ws", dtype="bfloat16", cache=HEAD8)
    convert_model(settings, ranges=random_ranges())
    assert read_cache_scales(open_workspace(tmp_path / "ws")) is not None
