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
    """Puts the library beside its sources, and into the wheel although git ignores it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        build = _load(Path(self.root) / NATIVE / "build.py")
        library = NATIVE / build.NAME
        (self.root / library).unlink(missing_ok=True)  # of an earlier build, maybe of other sources
        if os.environ.get("MINDPRESS_NO_NATIVE", "") not in ("", "0"):
            self.app.display_info("MINDPRESS_NO_NATIVE is set: the CPU kernels are left out")
            return
        try:
            build.compile_library(self.root / NATIVE)
        except build.CompileError as error:
            self.app.display_warning(f"the CPU kernels are left out of this build: {error}")
            return
        build_data["artifacts"].append(f"/{library.as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"  # it calls nothing of Python


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
