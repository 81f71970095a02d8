"""The compiled library, if there is one, and what it can do on this processor."""

import ctypes
from ctypes import POINTER, Structure, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from mindpress.kernels.native.build import NAME

ABI = 1
FOLDER = Path(__file__).parent

InstructionSet = Literal["best", "portable", "avx2", "avx512vnni"]
INSTRUCTION_SETS: tuple[InstructionSet, ...] = get_args(InstructionSet)  # in the order of w4.cpp


class W4Weight(Structure):
    """struct W4Weight of w4_weight.hpp."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("group", c_int64),
    )


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
        named = list(enumerate(INSTRUCTION_SETS))[1:]
        return [name for number, name in named if self.library.w4_instruction_set(number) == number]


@cache
def native() -> Native:
    """The library that was compiled when the package was built."""
    return load(FOLDER / NAME)


def load(file: Path) -> Native:
    """The library in `file`, if it is one this version can call."""
    if not file.exists():
        return Native(None, f"{file.name} was not compiled when mindpress was installed")
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


def _declare(library: ctypes.CDLL) -> None:
    weight = POINTER(W4Weight)
    library.w4_instruction_set.argtypes = [c_int]
    library.w4_matmul.argtypes = [weight, c_void_p, c_int64, c_void_p, c_int, c_int, c_int]
    library.w4_dequantize.argtypes = [weight, c_int64, c_int64, c_void_p, c_int, c_int]
