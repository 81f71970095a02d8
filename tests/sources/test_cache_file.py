"""The scales of a workspace's cache come back; damage is refused with the file's name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_ranges import random_ranges

from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.errors import InputError
from mindpress.formats.cache_scales import CacheScales, Grid, scales_of
from mindpress.formats.cache_spec import CacheSpec
from mindpress.sources.cache_file import (
    CACHE_FILE,
    read_cache_file,
    read_cache_scales,
    write_cache_file,
)
from mindpress.sources.fingerprint import model_fingerprint
from mindpress.sources.workspace import open_workspace

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hf"
HEAD = CacheSpec(8, granularity="head")
SPECS = [
    CacheSpec(bits, symmetric, granularity)
    for bits in (4, 8)
    for symmetric in (False, True)
    for granularity in ("tensor", "head", "channel", "token")
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """One layer, two kv heads of 128, tp 2, an int8 cache that LMDeploy 0.3 reads."""
    target = tmp_path_factory.mktemp("converted") / "workspace"
    settings = Conversion(str(GOLDEN / "mha"), target, tp=2, tm_version="0.3", cache=HEAD)
    convert_model(settings, calibrate=lambda *_: (random_ranges(1), {}))
    return target


@pytest.fixture
def workspace(converted, tmp_path):
    return Path(shutil.copytree(converted, tmp_path / "workspace"))


@pytest.fixture
def side(workspace):
    return workspace / "triton_models" / CACHE_FILE


@pytest.fixture
def change(side):
    """Write the side file again with other tensors, or another part of its metadata."""

    def write(tensors=None, **told):
        with safe_open(side, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = json.loads(file.metadata()["mindpress"]) | told
        changed = {name: x for name, x in (found | (tensors or {})).items() if x is not None}
        save_file(changed, side, metadata={"mindpress": json.dumps(metadata)})

    return write


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_was_written_is_read(spec, workspace):
    scales = scales_of(random_ranges(1), spec, 128, ranks=2)
    print_of = model_fingerprint(open_workspace(workspace))
    write_cache_file(workspace, scales, print_of, {"dataset": "ünïcode", "seed": "1"})
    found = read_cache_file(workspace)
    assert found.origin == {"dataset": "ünïcode", "seed": "1"}
    assert found.fingerprint == print_of
    assert found.scales.spec == spec
    for ours, theirs in ((found.scales.keys, scales.keys), (found.scales.values, scales.values)):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert torch.equal(ours.scale, theirs.scale)
            assert torch.equal(ours.zero, theirs.zero)
    assert read_cache_scales(open_workspace(workspace)).spec == spec
    assert open_workspace(workspace).problems == ()


def test_the_file_is_the_same_every_time(workspace, side):
    scales = scales_of(random_ranges(1), HEAD, 128)
    texts = set()
    for _ in range(4):
        write_cache_file(workspace, scales, "f", {"b": "1", "a": "2", "c": "3"})
        texts.add(side.read_bytes())
    assert len(texts) == 1


@pytest.mark.parametrize(
    "contents", [b"", b"damaged", b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"{}"]
)
def test_a_file_that_is_none_is_named(contents, workspace, side):
    side.write_bytes(contents)
    with pytest.raises(InputError, match=CACHE_FILE) as caught:
        read_cache_file(workspace)
    assert "calibrate again" in caught.value.hint


def test_a_truncated_file_is_named(workspace, side):
    side.write_bytes(side.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{CACHE_FILE}: damaged"):
        read_cache_file(workspace)


@pytest.mark.parametrize(
    "told",
    [
        {"spec": {"bits": 5, "symmetric": False, "granularity": "head"}},
        {"spec": {"bits": 8, "symmetric": 1, "granularity": "head"}},
        {"spec": {"bits": 8, "symmetric": False, "granularity": "layer"}},
        {"spec": {"bits": 8, "symmetric": False, "granularity": ["head"]}},
        {"spec": {"wits": 8}},
        {"spec": [8]},
        {"spec": None},
        {"origin": "here"},
    ],
    ids=str,
)
def test_a_spec_that_is_none(told, workspace, change):
    change(**told)
    with pytest.raises(InputError, match=CACHE_FILE):
        read_cache_file(workspace)


def grid(*shape, value=1.0):
    return torch.full(shape, value)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"key_scale": grid(2, 2, 1)}, r"`key_scale` is \[2, 2, 1\], the workspace asks for"),
        ({"key_zero": grid(1, 4, 1)}, "`key_zero` is"),
        ({"value_scale": grid(1, 2, 128)}, "`value_scale` is"),
        ({"value_zero": grid(2)}, "`value_zero` is"),
        ({"value_zero": None}, "`value_zero` is missing"),
        ({"extra": grid(1)}, "`extra` does not belong there"),
        ({"key_scale": grid(1, 2, 1, value=float("nan"))}, "`key_scale`: NaN or infinite"),
        ({"value_zero": grid(1, 2, 1, value=float("inf"))}, "`value_zero`: NaN or infinite"),
        ({"value_scale": grid(1, 2, 1, value=-1.0)}, "`value_scale`: negative"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_tensors_that_are_not_this_models(tensors, named, workspace, change):
    change(tensors)
    with pytest.raises(InputError, match=named) as caught:
        read_cache_file(workspace)
    assert CACHE_FILE in str(caught.value)


def test_a_scale_of_zero_is_a_constant_and_stays(workspace, change):
    change({"key_scale": grid(1, 2, 1, value=0.0)})
    assert not read_cache_file(workspace).scales.keys.scale.any()


def test_a_side_file_of_another_model_is_refused(workspace):
    write_cache_file(
        workspace, CacheScales(HEAD, *[Grid(grid(1, 2, 1), grid(1, 2, 1))] * 2), "f", {}
    )
    with pytest.raises(InputError, match="made for another model"):
        read_cache_scales(open_workspace(workspace))


def test_without_a_side_file_the_scales_of_lmdeploy_count(workspace, side):
    side.unlink()
    assert read_cache_file(workspace) is None
    scales = read_cache_scales(open_workspace(workspace))
    assert scales.spec == CacheSpec(8, granularity="tensor")
    exact = scales_of(random_ranges(1), scales.spec, 128, ranks=2)
    for found, expected in ((scales.keys, exact.keys), (scales.values, exact.values)):
        torch.testing.assert_close(found.scale, expected.scale, rtol=1e-3, atol=0)
        torch.testing.assert_close(found.zero, expected.zero, rtol=2e-3, atol=1e-3)
    assert scales.keys.scale[0, 0] != scales.keys.scale[0, 1]  # of two ranks


def without_ours(workspace, side):
    """The workspace as LMDeploy writes one."""
    side.unlink()
    (workspace / "manifest.json").unlink()


def test_no_scales_at_all_are_none(workspace, side):
    without_ours(workspace, side)
    for file in (workspace / "triton_models" / "weights").glob("*past_kv_scale*"):
        file.unlink()
    assert read_cache_scales(open_workspace(workspace)) is None


def test_files_count_only_where_the_config_asks_for_them(workspace, side):
    side.unlink()
    config = workspace / "triton_models" / "weights" / "config.ini"
    config.write_text(config.read_text().replace("quant_policy = 4", "quant_policy = 0"))
    assert read_cache_scales(open_workspace(workspace)) is None


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        (None, "1 of 2 past_kv_scale files are missing"),
        (bytes(8), "8 bytes, expected 16"),
        (np.float32([1, float("nan"), 1, 0]).tobytes(), "no scales of a cache: 1, nan, 1, 0"),
        (np.float32([1, 0, float("inf"), 0]).tobytes(), "no scales of a cache"),
        (np.float32([1, 0, 0, 0]).tobytes(), "no scales of a cache"),
        (np.float32([-1, 0, 1, 0]).tobytes(), "no scales of a cache"),
    ],
)
def test_damaged_files_of_lmdeploy_are_named(contents, named, workspace, side):
    without_ours(workspace, side)
    file = workspace / "triton_models" / "weights" / "layers.0.past_kv_scale.1.weight"
    file.unlink()
    if contents is not None:
        file.write_bytes(contents)
    with pytest.raises(InputError, match=named) as caught:
        read_cache_scales(open_workspace(workspace))
    assert "layers.0.past_kv_scale.1.weight" in str(caught.value)


def test_a_link_to_nothing_is_not_taken_for_no_file(workspace, side):
    side.unlink()
    side.symlink_to("nowhere")
    with pytest.raises(InputError, match="a link to nothing"):
        read_cache_file(workspace)
