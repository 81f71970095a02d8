"""Checkpoints some of whose weights are not what they should be."""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def damage(folder: Path, **changes: Callable[[Tensor], Tensor]) -> None:
    """Replace tensors of the only shard by what `changes` make of them."""
    tensors = load_file(folder / "model.safetensors")
    for name, change in changes.items():
        tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
