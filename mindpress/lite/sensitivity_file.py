"""How far a measurement of sensitivities has come, on disk for a run that goes on."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mindpress.checkpoint.disk import disk_errors, sync
from mindpress.checkpoint.manifest import check_unchanged
from mindpress.lite.mixture import ByWidth, Place
from mindpress.lite.sensitivity import Measuring

FILE = "sensitivities-{}.bin"
# States of a large model are gigabytes: what is computed in less time is not worth writing them.
SECONDS_BETWEEN_SAVES = 30.0
# As JSON: `done` layers, the `shape` of states, `changes` by layer and site, `sha256` of the file.
Kept = dict[str, Any]


@dataclass(slots=True)
class KeptSensitivity:
    """Keeps states in a file of `folder`: the original's, then those of every place, as float32.

    `journal` is told what is in the file before the one before is deleted. Takes no memory.
    """

    folder: Path
    journal: Callable[[Kept], None]
    seconds: float = SECONDS_BETWEEN_SAVES
    _saved: float = field(default_factory=time.monotonic)

    def keep(self, measuring: Measuring) -> None:
        """Save it, when the last time is long enough ago. ResourceError."""
        if time.monotonic() - self._saved < self.seconds:
            return
        file = self.folder / FILE.format(measuring.done)
        with disk_errors(file):
            digest = _write(file, (measuring.original, *measuring.states.values()))
            sync(file)
        changes = [
            [layer, site, list(measuring.changes[layer, site].items())]
            for layer, site in measuring.states
        ]
        shape = list(measuring.original.shape)
        self.journal({"done": measuring.done, "shape": shape, "changes": changes, "sha256": digest})
        self.forget(but=file)
        self._saved = time.monotonic()

    def forget(self, but: Path | None = None) -> None:
        """Delete what was kept, all of it or all but one file."""
        with disk_errors(self.folder):
            for file in self.folder.glob(FILE.format("*")):
                if file != but:
                    file.unlink()


def load_measuring(folder: Path, kept: Kept) -> Measuring:
    """What was kept. InputError when it is damaged; KeyError, TypeError or ValueError when `kept`
    is.
    """
    file, shape = folder / FILE.format(int(kept["done"])), tuple(map(int, kept["shape"]))
    places: dict[Place, ByWidth] = {
        (int(layer), str(site)): dict(found) for layer, site, found in kept["changes"]
    }
    check_unchanged(file, kept["sha256"], "the sensitivities")
    with disk_errors(file, "read"), file.open("rb") as opened:
        original, *states = (
            torch.from_numpy(np.fromfile(opened, np.float32, prod(shape)).reshape(shape))
            for _ in range(1 + len(places))
        )
    return Measuring(int(kept["done"]), original, dict(zip(places, states, strict=True)), places)


def _write(file: Path, tensors: Iterable[Tensor]) -> str:
    """SHA-256 of what was written."""
    digest = sha256()
    with file.open("wb") as opened:
        for tensor in tensors:
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
            opened.write(data)
            digest.update(data)
    return digest.hexdigest()
