import pytest

from mindpress.kernels.native import build, library


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


def test_a_library_of_other_sources_is_not_called(native, monkeypatch):
    monkeypatch.setattr(library, "ABI", 999)
    found = library.load(library.FOLDER / build.NAME)
    assert found.library is None
    assert "ABI" in found.reason


def test_a_compiler_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.CompileError, match=r"false .* failed"):
        build.compile_library(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CompileError, match=r"no C\+\+ compiler"):
        build.compile_library(tmp_path)
