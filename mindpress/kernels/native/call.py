"""Call the library: find it, and turn what it returns into errors."""

import ctypes

import torch

from mindpress.errors import ConfigError, InputError, ResourceError
from mindpress.kernels.native.library import (
    INSTRUCTION_SETS,
    InstructionSet,
    Native,
    Status,
    native,
)

INSTRUCTIONS: InstructionSet = "best"  # of kernels whose callers do not choose


def library_for(what: str, found: Native | None = None) -> ctypes.CDLL:
    """The library. ResourceError where there is none, saying that `what` is missing."""
    found = found or native()
    if found.library is None:
        raise ResourceError(
            f"no CPU kernel for {what}: {found.reason}",
            hint="install a C++ compiler, then mindpress again; or use --kernels reference",
        )
    return found.library


def how(threads: int, instructions: InstructionSet | None = None) -> tuple[int, int]:
    """The last arguments of every function: instruction set and threads (0: torch's)."""
    return INSTRUCTION_SETS.index(instructions or INSTRUCTIONS), threads or torch.get_num_threads()


def check(status: int, what: str, set_number: int) -> None:
    """Raise what a status stands for; `what` was done."""
    if status == Status.NOT_SUPPORTED:
        raise ConfigError(
            f"this processor does not have {INSTRUCTION_SETS[set_number]}",
            hint="leave the choice to the kernel",
        )
    if status == Status.BAD_SHAPE:
        raise InputError(f"{what}: sizes that do not fit one another")
    if status == Status.NO_MEMORY:
        raise ResourceError(f"{what}: not enough memory")
    if status != Status.DONE:
        raise ResourceError(f"{what} failed with status {status}")
