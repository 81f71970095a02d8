"""Compile the native library with whatever C++ compiler is there; needs the standard library only.

The hook of the wheel's build loads this file by its path, without the package and its dependencies.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

NAME = "libmindpress.so"
SOURCE = Path(__file__).with_name("w4.cpp")
FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wno-psabi"]
COMPILERS = ("c++", "g++", "clang++")


class CompileError(Exception):
    """There is no compiler, or it did not compile; the message says which."""


def sources() -> list[Path]:
    """Every file the library is made of."""
    return [file for file in SOURCE.parent.iterdir() if file.suffix in {".cpp", ".hpp", ".inc"}]


def compiler() -> list[str] | None:
    """The command of CXX, else of the first C++ compiler on the path."""
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise CompileError(f"CXX: {error}") from None
    names = [chosen] if chosen else [[name] for name in COMPILERS]
    return next((name for name in names if shutil.which(name[0])), None)


def compile_library(folder: Path) -> Path:
    """Write the library into `folder`, whole or not at all."""
    command = compiler()
    if command is None:
        raise CompileError(f"no C++ compiler: none of CXX, {', '.join(COMPILERS)} can be run")
    target = folder / NAME
    unfinished = folder / f"{NAME}.{os.getpid()}.tmp"
    call = [*command, *FLAGS, "-o", str(unfinished), str(SOURCE)]
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompileError(f"{shlex.join(call)} failed:\n{done.stderr.strip()}")
        unfinished.replace(target)
    except OSError as error:
        raise CompileError(f"{shlex.join(call)}: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return target
