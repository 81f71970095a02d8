"""The compiled library, if there is one, and what it can do on this processor."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from mindpress.kernels.native.build import FOLDER as SOURCES
from mindpress.kernels.native.build import NAME, OBSTACLE
from mindpress.kernels.native.structures import (
    Attention,
    Pages,
    StepLayer,
    StepRows,
    StepShape,
    W4Weight,
    W8Weight,
)

ABI = 2
FOLDER = SOURCES

InstructionSet = Literal["best", "portable", "avx2", "avx512vnni"]
INSTRUCTION_SETS: tuple[InstructionSet, ...] = get_args(InstructionSet)  # as in instructions.hpp


class Status(IntEnum):
    """enum Status of instructions.hpp: what a function of the library returns."""

    DONE = 0
    BAD_SHAPE = 1
    NOT_SUPPORTED = 2
    NO_MEMORY = 3


@dataclass(frozen=True, slots=True)
class Native:
    """A loaded library, or None and why there is none."""

    library: ctypes.CDLL | None
    reason: str

    @property
    def instruction_sets(self) -> list[InstructionSet]:
        """Those this processor can run, the best one last; empty without a library."""
        if self.library is None:
            return []
        runs = self.library.mindpress_instruction_set
        named = list(enumerate(INSTRUCTION_SETS))[1:]
        return [name for number, name in named if runs(number) == number]

    @property
    def sources(self) -> str:
        """`build.fingerprint` of what it was compiled from; empty without a library."""
        return "" if self.library is None else self.library.mindpress_sources().decode()


@cache
def native() -> Native:
    """The library that was compiled when the package was built."""
    return load(FOLDER / NAME)


def load(file: Path) -> Native:
    """The library in `file`, if it is one this version can call."""
    if not file.exists():
        return Native(None, _why_not_compiled(file))
    try:
        library = ctypes.CDLL(str(file))
        found = library.mindpress_abi()
    except (OSError, AttributeError) as error:
        return Native(None, f"{file} cannot be loaded: {error}")
    if found != ABI:
        return Native(None, f"{file} was compiled from other sources (ABI {found}, not {ABI})")
    _declare(library)
    loaded = Native(library, "")
    return Native(library, f"{file.name} uses {loaded.instruction_sets[-1]}")


def _why_not_compiled(file: Path) -> str:
    """In one line: the first of what the build left."""
    plain = f"{file.name} was not compiled when mindpress was installed"
    try:
        left = file.with_name(OBSTACLE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return plain
    first = next(iter(left.splitlines()), "").strip()
    return f"{plain}: {first}" if first else plain


def _declare(library: ctypes.CDLL) -> None:
    library.mindpress_instruction_set.argtypes = [c_int]
    library.mindpress_sources.restype = c_char_p
    w4, w8, pages = POINTER(W4Weight), POINTER(W8Weight), POINTER(Pages)
    library.w4_matmul.argtypes = [w4, c_void_p, c_int64, c_void_p, c_int, c_int, c_int]
    library.w4_dequantize.argtypes = [w4, c_int64, c_int64, c_void_p, c_int, c_int]
    library.attend_pages.argtypes = [POINTER(Attention), pages, pages, c_int, c_int]
    library.write_pages.argtypes = [pages, c_void_p, c_void_p, c_int64, c_int, c_int]
    library.w8_matmul.argtypes = [w8, c_void_p, c_void_p, c_int64, c_void_p, c_int, c_int]
    rows = [c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_int, c_int]
    library.quantize_rows.argtypes = rows
    sizes = [c_int, c_int64, c_int64]
    library.w16_matmul.argtypes = [c_void_p, *sizes, c_void_p, c_int64, c_void_p, c_int, c_int]
    step = [POINTER(StepShape), POINTER(StepLayer), c_void_p, POINTER(StepRows)]
    library.decoder_step.argtypes = [*step, c_void_p, c_void_p, c_int, c_int]
