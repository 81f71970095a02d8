"""The hidden states before the next block: of the original model, and behind quantized blocks."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mindpress.calib.hidden import Part, hidden_states, put
from mindpress.calib.stream import BlockStream
from mindpress.checkpoint.disk import sync
from mindpress.checkpoint.manifest import check_unchanged
from mindpress.errors import ConfigError
from mindpress.lite.inputs import Tokens, embedded
from mindpress.lite.recipe import Propagation

FOLLOWED_SPILL = "followed-states.bin"
KEPT = "followed-after-{}.bin"
Which = Literal["original", "followed"]

Hidden = Float[Tensor, "samples tokens hidden"]
# SHA-256 of kept states, and their type: float16 may have become bfloat16.
Followed = dict[str, str]


@dataclass(slots=True)
class HiddenStates:
    """`original` as the original model has them, `followed` as the quantized blocks make them.

    Only those that are needed are there. Float16 becomes bfloat16 when values pass its range. An
    interrupted run finds `followed` in a file of `folder`; `original` is computed again.
    """

    folder: Path
    original: Hidden | None
    followed: Hidden | None

    def of(self, which: Which) -> Hidden:
        """Those of a path; ConfigError when they are not there."""
        hidden = self.original if which == "original" else self.followed
        if hidden is None:
            raise ConfigError(f"a walk needs the hidden states of the {which} path")
        return hidden

    def put(self, which: Which, some: slice, found: Part) -> bool:
        """Write what a block made of some samples; whether that took bfloat16 from now on."""
        before = self.of(which)
        after = put(before, some, found)
        if which == "original":
            self.original = after
        else:
            self.followed = after
        return after.dtype != before.dtype

    def save(self, done: int) -> Followed | None:
        """Keep `followed` as it is after `done` blocks; what tells it from anything else."""
        if self.followed is None:
            return None
        kept, data = self.folder / KEPT.format(done), _bytes(self.followed).numpy().data
        kept.write_bytes(data)
        sync(kept)
        return {"sha256": sha256(data).hexdigest(), "dtype": str(self.followed.dtype)}

    def forget(self, done: int) -> None:
        """Delete what was kept after `done` blocks."""
        (self.folder / KEPT.format(done)).unlink(missing_ok=True)

    def load(self, done: int, saved: Followed | None) -> None:
        """Go on after `done` blocks, with what `check_kept` has found to be whole."""
        if self.followed is None or saved is None:
            return
        if saved["dtype"] == str(torch.bfloat16):
            self.followed = self.followed.view(torch.bfloat16)
        kept, into = str(self.folder / KEPT.format(done)), _bytes(self.followed)
        into.copy_(torch.from_file(kept, shared=False, size=len(into), dtype=torch.uint8))


def check_kept(folder: Path, done: int, saved: Followed | None) -> None:
    """Refuse states kept after `done` blocks that are not those `saved`; None is none kept."""
    if saved is not None:
        check_unchanged(folder / KEPT.format(done), saved["sha256"], "the hidden states")


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
