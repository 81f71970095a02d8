"""Compile the native library with whatever C++ compiler is there; needs the standard library only.

The hook of the wheel's build loads this file by its path, without the package and its dependencies.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

NAME = "libmindpress.so"
OBSTACLE = "libmindpress.txt"  # beside it or instead of it: why there is no library
FOLDER = Path(__file__).parent
FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wno-psabi"]
COMPILERS = ("c++", "g++", "clang++")


class CompileError(Exception):
    """There is no compiler, or it did not compile; the first line of the message says which."""


def sources() -> list[Path]:
    """Every file the library is made of."""
    return sorted(file for file in FOLDER.iterdir() if file.suffix in {".cpp", ".hpp", ".inc"})


def fingerprint() -> str:
    """Of sources and flags; `mindpress_sources` of a library is that of its own."""
    made = hashlib.sha256(shlex.join(FLAGS).encode())
    for file in sources():
        made.update(b"\0" + file.name.encode() + b"\0" + file.read_bytes())
    return made.hexdigest()[:16]


def compiler() -> list[str] | None:
    """The command of CXX, else of the first C++ compiler on the path.

    CompileError when CXX is no command: another compiler is not what was asked for.
    """
    command = _words("CXX")
    if command and shutil.which(command[0]) is None:
        raise CompileError(f"CXX={shlex.join(command)}: there is no program {command[0]}")
    if command:
        return command
    return next(([name] for name in COMPILERS if shutil.which(name)), None)


def compile_library(folder: Path) -> Path:
    """Write the library into `folder`, whole or not at all; CXXFLAGS come after our own flags."""
    command = compiler()
    if command is None:
        raise CompileError(f"no C++ compiler: none of {', '.join(COMPILERS)} can be run")
    target = folder / NAME
    unfinished = folder / f"{NAME}.{os.getpid()}.tmp"
    made_of = f'-DMINDPRESS_SOURCES="{fingerprint()}"'
    files = [str(file) for file in sources() if file.suffix == ".cpp"]
    more = _words("CXXFLAGS")
    call = [*command, *FLAGS, *more, made_of, "-o", str(unfinished), *files]
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            wrong = f"{shlex.join(command)} failed: {_first_error(done)}"
            raise CompileError(f"{wrong}\n{shlex.join(call)}\n{done.stderr.strip()}")
        unfinished.replace(target)
    except OSError as error:
        raise CompileError(f"{shlex.join(command)}: {error}\n{shlex.join(call)}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _words(variable: str) -> list[str]:
    """What an environment variable holds, split as a shell would."""
    wanted = os.environ.get(variable, "")
    try:
        return shlex.split(wanted)
    except ValueError as error:
        raise CompileError(f"{variable}={wanted}: {error}") from None


def _first_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = (line.strip() for line in done.stderr.splitlines())
    return next((line for line in lines if "error" in line.lower()), f"status {done.returncode}")
