"""A conversion that writes the scales of a cache too: the same files, and what it refuses."""

import shutil
from pathlib import Path

import pytest
from tiny_awq import quantize_folder
from tiny_ranges import random_ranges
from tiny_workspaces import contents, policy, save_ranged

from mindpress.checkpoint.manifest import NAME
from mindpress.convert.cache_output import write_cache_scales
from mindpress.convert.convert import convert_model, plan_conversion
from mindpress.convert.settings import Conversion
from mindpress.errors import ConfigError, InputError
from mindpress.formats.cache_spec import CacheSpec
from mindpress.sources.cache_file import read_cache_scales
from mindpress.sources.folder import open_folder
from mindpress.sources.signature import cache_signature
from mindpress.sources.workspace import open_workspace

TENSOR8, HEAD8 = CacheSpec(8, False, "tensor"), CacheSpec(8, False, "head")
CHANNEL4 = CacheSpec(4, True, "channel")
ORIGIN = {"dataset": "excerpt", "samples": "4"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ranged(tmp_path_factory.mktemp("model") / "model")


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
    report = convert_model(whole, calibrate=lambda *_: (random_ranges(), ORIGIN))
    written = contents(whole.target)
    assert written == contents(plain.target)
    written.pop(NAME)
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
        convert_model(settings, calibrate=lambda *_: (random_ranges(3), {}))
    assert not (tmp_path / "out").exists()


def test_notes_tell_who_reads_the_number(model, tmp_path):
    settings = Conversion(str(model), tmp_path / "ws", cache=CacheSpec(8))
    texts = [note.text for note in plan_conversion(settings).notes]
    assert texts[0] == "writing config.ini, which LMDeploy 0.4 to 0.5 reads"
    assert any(text.startswith("int8 cache (`quant_policy = 8`): LMDeploy 0.4") for text in texts)


def test_a_type_that_the_source_has_not_keeps_the_side_file_readable(model, tmp_path):
    """The fingerprint is of the written floats, which --dtype may round."""
    settings = Conversion(str(model), tmp_path / "ws", dtype="bfloat16", cache=HEAD8)
    convert_model(settings, calibrate=lambda *_: (random_ranges(), {}))
    assert read_cache_scales(open_workspace(tmp_path / "ws")) is not None
