"""The hidden states of the calibration set, in memory, or in a file when they do not fit."""

import os
from math import prod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.checkpoint.staging import disk_errors
from mindpress.memory import available_bytes

# Above this share of the free memory the hidden states go to a memory-mapped file.
SHARE_OF_MEMORY = 0.25


Hidden = Float[Tensor, "samples tokens hidden"]
Part = Float[Tensor, "_ tokens hidden"]


def hidden_states(
    size: tuple[int, int, int], dtype: torch.dtype, spill: Path
) -> Float[Tensor, "samples tokens hidden"]:
    """Uninitialised room for [samples, tokens, hidden]; `spill` is the file used when needed."""
    nbytes = prod(size) * dtype.itemsize
    if nbytes <= available_bytes() * SHARE_OF_MEMORY:
        return torch.empty(size, dtype=dtype)
    with disk_errors(spill), spill.open("w+b") as file:
        os.posix_fallocate(
            file.fileno(), 0, nbytes
        )  # a full disk is an error now, not a crash later
    return torch.from_file(str(spill), shared=True, size=prod(size), dtype=dtype).view(size)


def put(hidden: Hidden, some: slice, found: Part) -> Hidden:
    """Write `found` in the place of some samples; the hidden states to go on with.

    These are `hidden`, until something in float16 states passes the largest float16: then they are
    the same memory in bfloat16, whose range is float32's, and `hidden` must not be read any more.
    """
    if hidden.dtype == torch.float16 and _overflows(found):
        hidden = _in_bfloat16(hidden)
    hidden[some].copy_(found)
    return hidden


def _overflows(found: Part) -> bool:
    """Whether float16 is what makes it infinite."""
    low, high = found.aminmax()
    largest = float(torch.maximum(-low, high))
    return torch.finfo(torch.float16).max < largest < torch.inf


def _in_bfloat16(hidden: Hidden) -> Hidden:
    wide = hidden.view(torch.bfloat16)
    for new, old in zip(wide, hidden, strict=True):
        new.copy_(old.to(torch.bfloat16))
    return wide
