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
