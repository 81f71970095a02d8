"""Scales of a cache in a workspace: what LMDeploy reads, and the finer ones beside it."""

from pathlib import Path

import pytest
import torch
from tiny_ranges import GOLDEN_KV, golden_ranges, random_ranges
from tiny_workspaces import contents, policy, save_ranged, weights_of

from mindpress.checkpoint.manifest import NAME
from mindpress.checkpoint.verify import verify
from mindpress.convert.cache_output import check_cache_target, write_cache_scales
from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError, InputError, NumericError, ResourceError
from mindpress.formats.cache_scales import CacheRanges, Ranges, scales_of
from mindpress.formats.cache_spec import CacheSpec
from mindpress.sources.cache_file import CACHE_FILE, read_cache_file, read_cache_scales
from mindpress.sources.fingerprint import model_fingerprint
from mindpress.sources.folder import open_folder
from mindpress.sources.signature import cache_signature
from mindpress.sources.workspace import open_workspace

TENSOR8, HEAD8 = CacheSpec(8, False, "tensor"), CacheSpec(8, False, "head")
CHANNEL4 = CacheSpec(4, True, "channel")
ORIGIN = {"dataset": "excerpt", "samples": "4"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ranged(tmp_path_factory.mktemp("model") / "model")


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


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("version", ["0.2", "0.3"])
@pytest.mark.parametrize("granularity", ["tensor", "head", "channel", "token"])
def test_the_files_are_those_of_lmdeploy(granularity, version, tp, convert, signature):
    workspace, ranges = convert(version, tp), golden_ranges()
    before = contents(workspace)
    spec = CacheSpec(8, granularity=granularity)
    written = write_cache_scales(workspace, ranges, spec, ORIGIN, signature)
    assert verify(workspace) == len(contents(workspace)) - 1
    after = contents(workspace)
    assert before.pop(NAME) != after.pop(NAME)
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
    changed.remove(NAME)
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
    other = save_ranged(tmp_path / "other", seed=1)
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
