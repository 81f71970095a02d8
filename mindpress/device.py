"""Where to compute. Torch is imported when it is asked, so that the module is cheap to import."""

from typing import TYPE_CHECKING

from mindpress.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> "torch.device":
    """`auto` is CUDA where torch sees a device. ConfigError when it was asked for and is not."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: torch sees no CUDA device",
            hint="use --device cpu, or install a torch built for CUDA",
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def compute_type(device: "torch.device", stored: "torch.dtype") -> "torch.dtype":
    """What the blocks of a model compute in while they are calibrated: float32 on a CPU, where
    products of 16 bits are slow; the stored type on a GPU.
    """
    import torch

    return torch.float32 if device.type == "cpu" else stored
