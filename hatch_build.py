"""Compile the CPU kernels when the wheel is built; without a compiler it is Python alone."""

import importlib.util
import os
import platform
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("mindpress", "kernels", "native")


class NativeLibrary(BuildHookInterface):
    """Puts the library beside its sources, and into the wheel although git ignores it.

    Where there is none, a text file in its place says why: pip shows warnings only with -v.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        folder = Path(self.root) / NATIVE
        build = _load(folder / "build.py")
        for name in (build.NAME, build.OBSTACLE):  # of an earlier build, maybe of other sources
            (folder / name).unlink(missing_ok=True)
        obstacle = _compile(build, folder)
        if obstacle is None:
            build_data["artifacts"].append(f"/{(NATIVE / build.NAME).as_posix()}")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"  # it calls nothing of Python
            return
        self.app.display_warning(f"the CPU kernels are left out of this build: {obstacle}")
        (folder / build.OBSTACLE).write_text(f"{obstacle}\n", encoding="utf-8")
        build_data["artifacts"].append(f"/{(NATIVE / build.OBSTACLE).as_posix()}")


def _compile(build: ModuleType, folder: Path) -> str | None:
    """Make the library, or say why there is none."""
    if os.environ.get("MINDPRESS_NO_NATIVE", "") not in ("", "0"):
        return "MINDPRESS_NO_NATIVE was set"
    try:
        build.compile_library(folder)
    except build.CompileError as error:
        return str(error)
    return None


def _platform() -> str:
    """The wheel's platform; of macOS from 11 on pip accepts minor version 0 only."""
    if sys.platform == "darwin":
        return f"macosx_{platform.mac_ver()[0].split('.')[0]}_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _load(file: Path) -> ModuleType:
    """The module in `file`, without importing the package, whose dependencies are not here."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
