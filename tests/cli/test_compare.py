import json
import shutil
from pathlib import Path

import pytest

import mindpress.demo
from mindpress.engine import compare
from mindpress.engine.compare_settings import Comparison

MODEL = Path(mindpress.demo.__file__).parent / "tiny-llama"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The demo's model and a copy of it, compared once for all tests."""
    home = tmp_path_factory.mktemp("models")
    copy = shutil.copytree(MODEL, home / "copy")
    settings = Comparison((str(copy), str(MODEL)), str(MODEL), ("excerpt",), 64, 1,
                          device="cpu", output=home / "out")  # fmt: skip
    return compare.compare(settings)


@pytest.fixture
def asked(report, monkeypatch):
    """With which settings the command asked for a comparison."""
    found = []
    monkeypatch.setattr(compare, "compare", lambda settings, _: found.append(settings) or report)
    return found


def test_a_table(run, report, asked):
    ran = run("compare", "one", "two", "--against", MODEL)
    assert ran.code == 0, ran.err
    assert asked == [Comparison(("one", "two"), str(MODEL))]
    lines = ran.out.splitlines()
    header = next(line for line in lines if line.split() == ["copy", "tiny-llama", "original"])
    rows = {line.split("  ")[0] for line in lines[lines.index(header) :]}
    assert {"perplexity, excerpt", "KL divergence, excerpt", "same top token, excerpt",
            "size on disk", "bits per weight", "reading, tokens/s", "writing, tokens/s",
            "peak memory"} <= rows  # fmt: skip
    assert str(Path(report.output) / "compare.html") in ran.out


def test_json_and_every_option(run, report, asked, tmp_path):
    flags = ("--dataset", "ptb", "--seqlen", "64", "--limit", "2", "-o", tmp_path, "--device",
             "cpu", "--dtype", "bfloat16", "--threads", "1", "--kernels", "reference",
             "--download-dir", tmp_path, "--trust-remote-code", "--json", "-q")  # fmt: skip
    ran = run("compare", "one", "two", "--against", "org/three", *flags)
    assert ran.err == ""
    assert json.loads(ran.out) == report.as_dict()
    assert asked == [
        Comparison(("one", "two"), "org/three", ("ptb",), 64, 2, "cpu", "bfloat16", 1, "reference",
                   tmp_path, tmp_path, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("one", "--against", "original"), "1 model to compare, 2 or more are needed"),
        (("one", "two"), "--against"),
        ((), "PATH"),
        (("one", "two", "--against", "o", "--seqlen", "1"), "--seqlen 1"),
    ],
)
def test_misuse_is_one_line(run, arguments, words):
    ran = run("compare", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") <= 2  # an error, and mostly a hint
