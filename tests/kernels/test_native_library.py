import os
import subprocess
import sys

import pytest

from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.kernels.native import build, call, library


def test_the_library_says_what_it_uses(native):
    assert native.instruction_sets[0] == "portable"
    assert native.instruction_sets[-1] in native.reason


def test_another_file_is_no_library(tmp_path):
    file = tmp_path / build.NAME
    file.write_text("no library")
    found = library.load(file)
    assert found.library is None
    assert str(file) in found.reason
    assert found.instruction_sets == []
    assert found.sources == ""


def test_a_library_of_other_sources_is_not_called(native, monkeypatch):
    monkeypatch.setattr(library, "ABI", 999)
    found = library.load(library.FOLDER / build.NAME)
    assert found.library is None
    assert "ABI" in found.reason


def test_the_library_knows_its_sources_and_flags(native, monkeypatch):
    assert native.sources == build.fingerprint()
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-g"])
    assert native.sources != build.fingerprint()


def test_every_source_counts(tmp_path, monkeypatch):
    for file in build.sources():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = build.fingerprint()
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    assert build.fingerprint() == before
    for file in build.sources():
        kept = file.read_bytes()
        file.write_bytes(kept + b"\n")
        assert build.fingerprint() != before
        file.write_bytes(kept)


def test_a_compiler_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.CompileError, match=r"^false failed: status 1\n"):
        build.compile_library(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_first_error_of_a_compiler_is_said_first(tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho In file w4.cpp >&2\necho 'fatal error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.CompileError, match=r"^.*compiler failed: fatal error: no\n"):
        build.compile_library(tmp_path)


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CompileError, match=r"no C\+\+ compiler"):
        build.compile_library(tmp_path)


def test_no_other_compiler_takes_the_place_of_cxx(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(build.CompileError, match="CXX=no-such-compiler -m64: there is no program"):
        build.compile_library(tmp_path)
    monkeypatch.setenv("CXX", "g++ 'unfinished")
    with pytest.raises(build.CompileError, match=r"CXX=g\+\+ 'unfinished: No closing quotation"):
        build.compiler()


def test_flags_of_the_environment_come_last(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("CXXFLAGS", "-O1 '-Done two'")
    with pytest.raises(build.CompileError, match=r"false -O3 .* -O1 '-Done two' .* -o "):
        build.compile_library(tmp_path)


def test_why_there_is_no_library_is_read_from_beside_it(tmp_path):
    plain = library.load(tmp_path / build.NAME)
    assert plain.reason == "libmindpress.so was not compiled when mindpress was installed"
    (tmp_path / build.OBSTACLE).write_text("g++ failed: error: no\ng++ -O3 ...\nIn file ...\n")
    found = library.load(tmp_path / build.NAME)
    assert found.library is None
    assert found.reason == f"{plain.reason}: g++ failed: error: no"
    (tmp_path / build.OBSTACLE).write_text("\n")
    assert library.load(tmp_path / build.NAME).reason == plain.reason


def test_what_the_library_returns_has_names():
    call.check(library.Status.DONE, "a product", 0)
    for status, error, words in (
        (library.Status.BAD_SHAPE, InputError, "a product: sizes"),
        (library.Status.NOT_SUPPORTED, ConfigError, "does not have avx2"),
        (library.Status.NO_MEMORY, ResourceError, "not enough memory"),
        (77, ResourceError, "failed with status 77"),
    ):
        with pytest.raises(error, match=words):
            call.check(status, "a product", library.INSTRUCTION_SETS.index("avx2"))


THREADS = """
import os, pathlib, sys, torch
from mindpress.kernels.native import library
from mindpress.kernels.quantize_rows.cpu import quantize_rows_cpu

library.FOLDER = pathlib.Path(sys.argv[1])
before = len(os.listdir("/proc/self/task"))
quantize_rows_cpu(torch.ones(int(sys.argv[2]), 2**14), threads=40)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("items", [1, 3])
def test_no_more_threads_than_items(native, items):
    command = [sys.executable, "-W", "ignore", "-c", THREADS, str(library.FOLDER), str(items)]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, env=os.environ)
    assert int(done.stdout) == items - 1
