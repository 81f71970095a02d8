"""The hidden states before the next block: of the original model, and behind quantized blocks."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.calib.hidden import hidden_states
from mindpress.calib.stream import BlockStream
from mindpress.errors import InputError
from mindpress.lite.inputs import SPILL, Tokens, embedded
from mindpress.lite.recipe import Propagation

FOLLOWED_SPILL = "followed-states.bin"
KEPT = "followed-after-{}.bin"

Hidden = Float[Tensor, "samples tokens hidden"]


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """`original` as the original model has them, `followed` as the quantized blocks make them.

    Only those that are needed are there. An interrupted run finds `followed` in a file of
    `folder`; `original` is computed again.
    """

    folder: Path
    original: Hidden | None
    followed: Hidden | None

    def save(self, done: int) -> None:
        """Keep `followed` as it is after `done` blocks."""
        if self.followed is None:
            return
        with (self.folder / KEPT.format(done)).open("wb") as file:
            _bytes(self.followed).numpy().tofile(file)
            file.flush()
            os.fsync(file.fileno())

    def forget(self, done: int) -> None:
        """Delete what was kept after `done` blocks."""
        (self.folder / KEPT.format(done)).unlink(missing_ok=True)

    def load(self, done: int) -> None:
        """Go on after `done` blocks; InputError when what was kept is damaged."""
        if self.followed is None or not done:
            return
        kept, into = self.folder / KEPT.format(done), _bytes(self.followed)
        size = kept.stat().st_size if kept.is_file() else 0
        if size != len(into):
            raise InputError(
                f"{kept}: the hidden states of an interrupted run are damaged:"
                f" {size} bytes, not {len(into)}",
                hint="add --overwrite to start afresh",
            )
        into.copy_(torch.from_file(str(kept), shared=False, size=size, dtype=torch.uint8))

    def remove_files(self) -> None:
        """The run is complete."""
        for file in (SPILL, FOLLOWED_SPILL):
            (self.folder / file).unlink(missing_ok=True)
        for file in self.folder.glob(KEPT.format("*")):
            file.unlink()


def first_states(
    stream: BlockStream, tokens: Tokens, folder: Path, propagate: Propagation
) -> HiddenStates:
    """The hidden states before the first block."""
    first = embedded(stream, tokens, folder)
    if propagate == "original":
        return HiddenStates(folder, first, None)
    if propagate == "quantized":
        return HiddenStates(folder, None, first)
    second = hidden_states(
        (first.shape[0], first.shape[1], first.shape[2]), first.dtype, folder / FOLLOWED_SPILL
    )
    return HiddenStates(folder, first, second.copy_(first))


def _bytes(hidden: Hidden) -> Tensor:
    return hidden.view(-1).view(torch.uint8)
