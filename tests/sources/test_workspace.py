"""Workspaces that are whole are read; damaged ones are refused with the file's name."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mindpress.convert.convert import convert_model
from mindpress.convert.settings import Conversion
from mindpress.errors import InputError
from mindpress.sources.opening import open_source
from mindpress.sources.workspace import Workspace, open_workspace

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hf"


@pytest.fixture(scope="module", params=["0.5", "0.6"])
def converted(request, tmp_path_factory):
    """The AWQ model with grouped-query heads over two ranks, in both layouts."""
    target = tmp_path_factory.mktemp(request.param) / "workspace"
    convert_model(Conversion(str(GOLDEN / "gqa-awq"), target, tp=2, tm_version=request.param))
    return target


@pytest.fixture
def workspace(converted, tmp_path):
    return Path(shutil.copytree(converted, tmp_path / "workspace"))


@pytest.fixture
def weights(workspace):
    return workspace / "triton_models" / "weights"


def edit(weights, old, new):
    """Change a value in whichever config there is."""
    (file,) = weights.glob("config.*")
    sign = " = " if file.suffix == ".ini" else ": "
    text = file.read_text()
    assert f"{old[0]}{sign}{old[1]}\n" in text
    file.write_text(text.replace(f"{old[0]}{sign}{old[1]}\n", f"{old[0]}{sign}{new}\n"))


def test_a_workspace_is_opened_as_one(workspace):
    source = open_source(workspace)
    assert isinstance(source, Workspace)
    assert source.spec.group_size == 128
    assert source.problems == ()
    assert source.embedding().shape == source.head().shape == (65, 512)


@pytest.mark.parametrize("name", ["norm.weight", "layers.0.feed_forward.w2.1.qweight"])
def test_a_missing_file_is_named(name, workspace, weights):
    (weights / name).unlink()
    with pytest.raises(InputError, match=name):
        open_workspace(workspace)


@pytest.mark.parametrize("size", [0, 100, 10**6])
def test_a_file_of_the_wrong_size_is_named(size, workspace, weights):
    with (weights / "layers.0.attention.wo.1.qweight").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(InputError, match=rf"wo\.1\.qweight: {size} bytes, the config asks for"):
        open_workspace(workspace)


@pytest.mark.parametrize(
    ("key", "old", "new", "named"),
    [
        ("vocab_size", 65, 67, "tok_embeddings"),
        ("num_layer", 1, 2, "layers.1."),
        ("kv_head_num", 2, 3, "4 heads are no multiple of 3 kv heads"),
        ("rotary_embedding", 128, 129, "`rotary_embedding` 129"),
        ("rotary_embedding", 128, 256, "`rotary_embedding` 256"),
        ("inter_size", 256, 320, "`group_size` 128 does not divide"),
        ("group_size", 128, 100, "`group_size` 100 does not divide"),
        ("inter_size", 256, 255, "2 ranks cannot share"),
        ("norm_eps", None, "-1", "`norm_eps`"),
    ],
)
def test_a_config_that_contradicts_the_files(key, old, new, named, workspace, weights):
    if old is None:
        (file,) = weights.glob("config.*")
        old = next(
            line.split(maxsplit=2 if "=" in line else 1)[-1]
            for line in file.read_text().splitlines()
            if line.strip().startswith(key)
        )
    edit(weights, (key, old), new)
    with pytest.raises(InputError) as caught:
        open_workspace(workspace)
    assert named in str(caught.value)
    assert str(weights) in str(caught.value)


def test_too_many_ranks(workspace, weights):
    (file,) = weights.glob("config.*")
    edit(weights, ("tensor_para_size" if file.suffix == ".ini" else "  tp", 2), 2**20)
    with pytest.raises(InputError, match="too many"):
        open_workspace(workspace)


def test_no_config(workspace, weights):
    for file in weights.glob("config.*"):
        file.unlink()
    with pytest.raises(InputError, match=r"no config\.yaml or config\.ini"):
        open_workspace(workspace)


@pytest.mark.parametrize("contents", [b"", b"\xff\xfe\x00", b"\0" * (2 * 2**20)])
def test_a_config_that_is_no_text(contents, workspace, weights):
    (file,) = weights.glob("config.*")
    file.write_bytes(contents)
    with pytest.raises(InputError, match=file.name):
        open_workspace(workspace)


def test_damaged_zeros_are_named_when_they_are_read(workspace, weights):
    (file, *_) = sorted(weights.glob("layers.0.attention.wo.0.*zeros"))
    data = np.fromfile(file, dtype=np.float16)
    data[0] = 1e4
    data.tofile(file)
    with pytest.raises(InputError, match=rf"{file.name}: a zero point"):
        open_workspace(workspace).linears(0)


def test_a_cache_policy_is_read_and_an_unknown_one_is_told(workspace, weights):
    (file,) = weights.glob("config.*")
    if file.suffix == ".yaml":
        file.write_text(file.read_text() + "engine_config:\n  quant_policy: 4\n")
        told = "`quant_policy = 4` means nothing to LMDeploy 0.6.0 to 0.6.2"
    else:
        edit(weights, ("quant_policy", 0), 4)
        assert open_workspace(workspace).problems == ()
        assert open_workspace(workspace).config.cache_bits == 4
        edit(weights, ("quant_policy", 4), 3)
        told = "`quant_policy = 3` means nothing to LMDeploy 0.5.3"
    opened = open_workspace(workspace)
    assert opened.problems == (told,)
    assert opened.config.cache_bits is None


def test_cache_scales_belong_to_old_workspaces_and_other_files_do_not(workspace, weights):
    (weights / "layers.0.past_kv_scale.0.weight").write_bytes(bytes(16))
    assert open_workspace(workspace).problems == ()
    (weights / "layers.7.attention.wo.0.weight").write_bytes(bytes(16))
    (problem,) = open_workspace(workspace).problems
    assert "layers.7.attention.wo.0.weight" in problem


def test_a_path_that_is_nothing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_source(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("added", "named"), [("#" * 20_000, "larger than 16 KiB"), ("x" + " " * 5000 + "y", "a line")]
)
def test_a_config_that_would_take_its_parser_long(added, named, workspace, weights):
    (file,) = weights.glob("config.*")
    file.write_text(f"{file.read_text()}\n{added}\n")
    with pytest.raises(InputError, match=named):
        open_workspace(workspace)
