"""`mindpress check-env`: what this machine has, for a report of a problem."""

import os
import platform
import sys
from importlib import metadata

from mindpress import __version__
from mindpress.cli.console import Console
from mindpress.cli.options import JsonOpt, QuietOpt
from mindpress.report.numbers import size

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub",
            "pyarrow", "numpy", "triton", "typer")  # fmt: skip


def check_env(json: JsonOpt = False, quiet: QuietOpt = False) -> None:
    """Show versions, CPU, memory and GPU."""
    console = Console(as_json=json, quiet=quiet)
    found = {**_software(), **_hardware()}
    console.pairs(found)
    console.result(found)


def _software() -> dict[str, str]:
    found = {
        "mindpress": __version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
    }
    return found | {name: _installed(name) for name in PACKAGES}


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _hardware() -> dict[str, str]:
    import psutil
    import torch

    from mindpress.kernels.dispatch import cpu_path

    memory = psutil.virtual_memory()
    found = {
        "CPU": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "CPU kernels": cpu_path(),
        "threads": str(torch.get_num_threads()),
        "memory": f"{size(memory.total)}, {size(memory.available)} free",
        "GPU": "none",
    }
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        name = "GPU" if index == 0 else f"GPU {index}"
        found[name] = f"{card.name}, {size(card.total_memory)}, CUDA {torch.version.cuda}"
    return found
