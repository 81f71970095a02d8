"""What a measurement ran on."""

import gc
import platform
from pathlib import Path

import torch
import transformers

import mindpress
from mindpress.memory import give_back, resident_bytes

CPU_INFO = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """The GPU, or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def held_bytes(device: torch.device) -> int:
    """Memory held now: of this process on the CPU, what torch has allocated on CUDA."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    give_back()
    return resident_bytes()


def versions() -> dict[str, str]:
    """Of the package and of what it computes with."""
    found = {
        "mindpress": mindpress.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    return found if torch.version.cuda is None else found | {"cuda": torch.version.cuda}
