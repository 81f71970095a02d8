"""`convert --kv-bits`: what the workspace says of the cache, and the calibration that takes."""

import json

import pytest
import torch
from tiny_awq import quantize_folder
from tiny_models import save_tiny

from mindpress.calib.statistics_file import StatisticsHeader, save_statistics
from mindpress.sources.cache_file import read_cache_file
from mindpress.sources.folder import open_folder
from mindpress.sources.signature import cache_signature

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 4096,
}
FEW = ("--calib-samples", "2", "--calib-seqlen", "32")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two layers, two kv heads of 128."""
    return save_tiny("llama", tmp_path_factory.mktemp("small") / "model", **SIZES)


@pytest.fixture
def statistics(small, tmp_path):
    """What `lite calibrate kv` writes for that model."""
    folder = tmp_path / "statistics"
    folder.mkdir()
    high = torch.rand(2, 128) + 0.5
    layer = {
        f"{name}.{part}": x
        for name in ("keys", "values")
        for part, x in (("min", -high), ("max", high), ("absmax", high))
    }
    header = StatisticsHeader(
        model=str(small),
        signature=cache_signature(open_folder(small)),
        family="LlamaForCausalLM",
        layers=2,
        kv_heads=2,
        head_dim=128,
        dataset="excerpt",
        samples=4,
        length=64,
        seed=0,
        linears={},
        clamped=(),
        versions={"mindpress": "0"},
    )
    save_statistics(folder, header, [layer, layer])
    return folder


def policy(workspace):
    config = workspace / "triton_models" / "weights" / "config.ini"
    return next(s for s in config.read_text().splitlines() if s.startswith("quant_policy"))


def test_bits_alone_ask_for_a_cache_scaled_per_token(run, small, tmp_path):
    ran = run("convert", small, "--dst-path", tmp_path / "ws", "--kv_bits", "4", "--json")
    assert json.loads(ran.out)["cache"] == {
        "bits": 4, "symmetric": False, "granularity": "token",
    }  # fmt: skip
    assert policy(tmp_path / "ws") == "quant_policy = 4"
    shown = run("inspect", tmp_path / "ws")
    assert shown.code == 0
    assert "int4, scaled per token" in shown.out


@pytest.mark.parametrize(
    ("version", "flags", "line", "words"),
    [
        ("0.2", (), "quant_policy = 4", "int8, calibrated per tensor"),
        ("0.3", ("--granularity", "token"), "quant_policy = 4", "int8, scaled per token"),
        ("0.5", ("--granularity", "head", "--kv-sym"), "quant_policy = 8",
         "int8 symmetric, calibrated per head"),
    ],
)  # fmt: skip
def test_statistics_of_an_earlier_run(
    version, flags, line, words, run, small, statistics, tmp_path
):
    base = ("convert", small, "--dst-path", tmp_path / "ws", "--tm-version", version,
            "--kv-bits", "8", "--calib", statistics, *flags)  # fmt: skip
    planned = run(*base, "--dry-run")
    assert words in planned.out
    assert not (tmp_path / "ws").exists()
    ran = run(*base)
    assert ran.code == 0
    assert words in ran.out
    assert policy(tmp_path / "ws") == line
    assert words in run("inspect", tmp_path / "ws").out
    files = list((tmp_path / "ws" / "triton_models" / "weights").glob("*past_kv_scale*"))
    assert len(files) == (0 if version == "0.5" else 2)
    assert read_cache_file(tmp_path / "ws").origin["dataset"] == "excerpt"


@pytest.mark.parametrize("kind", ["floats", "awq"])
def test_calibrating_on_the_way(kind, run, tmp_path):
    model = save_tiny("llama", tmp_path / "model", **SIZES)
    if kind == "awq":
        quantize_folder(model)
    ran = run("convert", model, "--dst-path", tmp_path / "out" / "ws", "--kv-bits", "8",
              "--calib", "excerpt", *FEW, "--granularity", "channel")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "calibrate: 2 layers" in ran.err
    assert "convert: 2 layers" in ran.err
    stored = read_cache_file(tmp_path / "out" / "ws")
    assert stored.scales.keys.scale.shape == (2, 2, 128)
    assert stored.origin["samples"] == "2"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ws"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--kv-sym",), "--kv-sym"),
        (("--calib", "excerpt"), "--calib"),
        (("--granularity", "head"), "--granularity"),
        (("--calib-samples", "4"), "--calib-samples"),
        (("--kv-bits", "8", "--batch-size", "4"), "--batch-size"),
        (("--kv-bits", "8", "--granularity", "tensor"), "--granularity tensor"),
        (("--kv-bits", "5"), "--kv-bits 5"),
        (("--kv-bits", "8", "--tm-version", "0.2"), "needs calibrated scales"),
        (("--kv-bits", "4", "--tm-version", "0.3", "--calib", "excerpt"), "no int4 cache"),
        (("--kv-bits", "8", "--calib", "excerpt", "--granularity", "token"), "token"),
    ],
)
def test_flags_that_make_no_sense_together(flags, named, run, small, tmp_path):
    ran = run("convert", small, "--dst-path", tmp_path / "ws", *flags)
    assert ran.code == 2
    error = ran.err.splitlines()[0]
    assert named in error
    assert "calibrate: " not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_another_model_are_refused(run, statistics, tmp_path):
    other = save_tiny("llama", tmp_path / "other", seed=1, **SIZES)
    for flags in ((), ("--dry-run",)):
        ran = run("convert", other, "--dst-path", tmp_path / "ws", "--kv-bits", "8",
                  "--calib", statistics, *flags)  # fmt: skip
        assert ran.code == 3
        assert "statistics of another model" in ran.err
        assert not (tmp_path / "ws").exists()


def test_a_folder_without_statistics_is_refused(run, small, tmp_path):
    (tmp_path / "empty").mkdir()
    flags = ("--dst-path", tmp_path / "ws", "--kv-bits", "8", "--calib", tmp_path / "empty")
    ran = run("convert", small, *flags)
    assert ran.code == 3
    assert str(tmp_path / "empty") in ran.err


def test_counts_beside_given_statistics_make_no_sense(run, small, statistics, tmp_path):
    ran = run("convert", small, "--dst-path", tmp_path / "ws", "--kv-bits", "8",
              "--calib", statistics, *FEW)  # fmt: skip
    assert ran.code == 2
    assert "--calib-samples" in ran.err


def test_a_dataset_that_is_none_is_refused_before_anything(run, small, tmp_path):
    ran = run("convert", small, "--dst-path", tmp_path / "ws", "--kv-bits", "8",
              "--calib", tmp_path / "none.txt")  # fmt: skip
    assert ran.code == 3
    assert "none.txt" in ran.err
    assert list(tmp_path.iterdir()) == []
