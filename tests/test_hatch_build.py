"""The hook of the wheel's build, run in a copy of what it needs of the tree."""

import ctypes
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from mindpress.kernels.native import build, library

ROOT = Path(__file__).parent.parent
NATIVE = Path("mindpress", "kernels", "native")


@pytest.fixture
def hook(tmp_path, monkeypatch):
    """Runs the hook; what it said and what it adds to the wheel."""
    shutil.copytree(
        ROOT / NATIVE, tmp_path / NATIVE, ignore=shutil.ignore_patterns("*.so", "*.txt")
    )
    for name in ("CXX", "MINDPRESS_NO_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = hook_module(monkeypatch)

    def run():
        said = []
        app = SimpleNamespace(display_warning=said.append, display_info=said.append)
        data = {"artifacts": [], "pure_python": True}
        made = module.NativeLibrary()
        made.root, made.app = str(tmp_path), app
        made.initialize("standard", data)
        return data, said

    return run


def hook_module(monkeypatch):
    """hatch_build.py, with a base of its hook that needs no builder."""
    parts = ["hatchling", "builders", "hooks", "plugin", "interface"]
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].BuildHookInterface = object
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_the_kernels_when_asked(hook, tmp_path, monkeypatch):
    (tmp_path / NATIVE / build.NAME).write_text("of an earlier build")
    monkeypatch.setenv("MINDPRESS_NO_NATIVE", "1")
    data, said = hook()
    assert said == ["the CPU kernels are left out of this build: MINDPRESS_NO_NATIVE was set"]
    assert data == {"artifacts": [f"/{(NATIVE / build.OBSTACLE).as_posix()}"], "pure_python": True}
    found = library.load(tmp_path / NATIVE / build.NAME)
    assert found.reason.endswith("installed: MINDPRESS_NO_NATIVE was set")


@pytest.mark.parametrize("value", ["", "0"])
def test_a_setting_that_says_no(hook, monkeypatch, value):
    monkeypatch.setenv("MINDPRESS_NO_NATIVE", value)
    monkeypatch.setenv("CXX", "false")
    assert "false failed" in hook()[1][0]


def test_a_compiler_that_fails_leaves_its_reason(hook, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    data, said = hook()
    assert "false failed: status 1\nfalse -O3" in said[0]
    assert data["artifacts"] == [f"/{(NATIVE / build.OBSTACLE).as_posix()}"]
    assert data["pure_python"] is True
    assert library.load(tmp_path / NATIVE / build.NAME).reason.endswith(": false failed: status 1")


def test_a_compiler_that_is_not_there_leaves_its_reason(hook, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    hook()
    assert (
        "there is no program no-such-compiler"
        in library.load(tmp_path / NATIVE / build.NAME).reason
    )


def test_the_library_is_compiled_into_the_wheel(hook, tmp_path):
    """Of one source only, which says what the library is; compiling the others takes long."""
    if build.compiler() is None:
        pytest.skip("no C++ compiler")
    (tmp_path / NATIVE / build.OBSTACLE).write_text("of an earlier build")
    for file in (tmp_path / NATIVE).glob("*.cpp"):
        if file.name != "library.cpp":
            file.unlink()
    data, said = hook()
    assert said == []
    assert data["artifacts"] == [f"/{(NATIVE / build.NAME).as_posix()}"]
    assert data["pure_python"] is False
    assert data["tag"].startswith("py3-none-")
    assert not (tmp_path / NATIVE / build.OBSTACLE).exists()
    assert ctypes.CDLL(str(tmp_path / NATIVE / build.NAME)).mindpress_abi() == library.ABI
