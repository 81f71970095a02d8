"""Stops a command at a chosen call that changes the disk: with an error, or dead.

The calls are those of the C library (open to write, write, rename, fsync ...), counted by a library
that is compiled here and loaded before all others (`disk_calls.cpp`).
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mindpress.kernels.native.build import compiler

SOURCE = Path(__file__).with_suffix(".cpp")
LOADED = "LD_PRELOAD"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at call `number` (from 1): see the modes in the source; `error` is an errno."""

    number: int = 0
    mode: str = "f"
    error: int = 0


def is_loaded() -> bool:
    """Whether this process has the library."""
    return hasattr(ctypes.CDLL(None), "stress_arm")


def load() -> None:
    """Start this process again with the library; returns when it has it."""
    if is_loaded():
        shutil.rmtree(Path(os.environ.pop(LOADED)).parent)  # it stays in memory
        return
    command = compiler()
    if command is None:
        raise SystemExit(f"a C++ compiler is needed, to compile {SOURCE}")
    library = Path(tempfile.mkdtemp()) / f"{SOURCE.stem}.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run([*command, *flags], check=True)
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(
        sys.executable, arguments, {**os.environ, LOADED: str(library), "OMP_NUM_THREADS": "1"}
    )


def arm(folder: Path, calls: ctypes.c_long, fault: Fault) -> None:
    """From now on count in `calls` what this process changes below `folder`, and do `fault`."""
    library = ctypes.CDLL(None)
    kinds = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_char, ctypes.c_int)
    library.stress_arm.argtypes = kinds
    where = ctypes.addressof(calls)
    library.stress_arm(str(folder).encode(), where, fault.number, fault.mode.encode(), fault.error)
