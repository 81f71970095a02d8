"""The run on a GPU, at sizes for Triton's interpreter: every path of it, no times."""

import importlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="no Triton")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles here"),
]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def part(monkeypatch):
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def measured(gpu, tmp_path, *only):
    """Exit code and report of some sections, in this process."""
    file = tmp_path / "gpu.json"
    arguments = Namespace(output=file, toy=True, only=list(only), seconds=600.0)
    code = gpu.measure(arguments, torch.device("cpu"), float("inf"))
    return code, json.loads(file.read_text())


def test_everything_is_measured(tmp_path):
    file = tmp_path / "new" / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--toy", "--output", str(file)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(file.read_text())
    sections = report["sections"]
    assert list(sections) == ["products", "w8a8", "cache", "glue", "runtime"]
    assert not report["failed"]
    for section in sections.values():
        assert section["figures"]
        assert not section["skipped"]
        assert all(one["value"] == one["value"] for one in section["figures"])
    assert all(one["met"] == (one["value"] >= one["goal"]) for one in report["goals"])
    assert {one["goal"] for one in report["goals"]} >= {0.7, 2.2, 6.0, 1.6, 2.5, 1.0}
    tuned = sections["products"]["notes"]["tuned"]
    assert "cpu/matmul_w4a16/128x128/g128/float16/32" in tuned
    assert {"method", "split"} <= set(next(iter(tuned.values())))
    assert [
        one["tuned_tiles"] for one in sections["runtime"]["figures"] if "tuned_tiles" in one
    ] == [4]
    assert sections["runtime"]["figures"][-2]["name"] == "w4 with int8 cache, batch 2"
    assert {"command", "hardware", "machine", "copy_gigabytes_per_second"} <= set(report)


def test_a_wrong_kernel_has_no_speed_and_the_others_have_theirs(part, tmp_path, monkeypatch):
    glue = part("gpu_glue")
    right = glue.gated
    monkeypatch.setattr(glue, "gated", lambda x, activation: right(x, activation) * 1.01)
    code, report = measured(part("gpu"), tmp_path, "glue")
    assert code == 1
    assert report["failed"] == ["glue: gate, 2 rows"]
    names = [one["name"] for one in report["sections"]["glue"]["figures"]]
    assert "rms_norm with residual, 2 rows" in names
    assert not [name for name in names if name.startswith("gate")]
    assert "WrongResult" in report["sections"]["glue"]["failed"][0]["traceback"]


def test_nothing_is_measured_of_products_that_are_wrong(part, tmp_path, monkeypatch):
    """As when a tensor core took the codes, which are subnormal numbers, for zero."""
    monkeypatch.setattr(
        part("gpu_check"),
        "matmul_triton",
        lambda x, weight, *_: x.new_zeros(len(x), weight.outputs),
    )
    monkeypatch.setattr(part("gpu_products"), "LLAMA", ())
    monkeypatch.setattr(part("gpu_products"), "wanted", lambda *_: {})
    code, report = measured(part("gpu"), tmp_path, "products")
    assert code == 1
    assert report["failed"] == [f"products: check torch.{name}" for name in ("float16", "bfloat16")]
    assert not report["sections"]["products"]["figures"]


def test_what_does_not_fit_the_time_is_skipped(part, tmp_path):
    file = tmp_path / "gpu.json"
    arguments = Namespace(output=file, toy=True, only=["w8a8", "glue"], seconds=0.0)
    assert part("gpu").measure(arguments, torch.device("cpu"), 0.0) == 0
    sections = json.loads(file.read_text())["sections"]
    assert sections["w8a8"]["skipped"] == ["check: takes about 15 s, 0 are left"]
    assert len(sections["glue"]["skipped"]) == 8
    assert not sections["glue"]["figures"]


def test_an_error_in_a_section_leaves_the_others(part, tmp_path, monkeypatch):
    def broken(section, bench):
        raise KeyError("lost")

    gpu = part("gpu")
    sections = gpu.sections() | {"w8a8": broken}
    monkeypatch.setattr(gpu, "sections", lambda: sections)
    code, report = measured(gpu, tmp_path, "w8a8", "glue")
    assert code == 1
    assert report["failed"] == ["w8a8: the rest of the section"]
    assert report["sections"]["glue"]["figures"]


@pytest.mark.parametrize("most", [2, 8, 200])
def test_the_default_tile_is_always_tried(part, most):
    choices = list(range(60))
    spread = part("gpu_products").spread(choices, most)
    assert spread[0] == 0
    assert len(spread) == len(set(spread)) == min(most, 60)


def test_limits_of_time_are_for_all_sections(part):
    assert sum(part("gpu").SHARES.values()) == pytest.approx(1)
