"""The GPU that is measured: its name, what the driver says of it, and the speed of its memory."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from mindpress.kernels.tuning import Table
from mindpress.kernels.tuning.clock import captured, medians

ASKED = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
         "power.draw", "power.limit", "temperature.gpu", "pstate")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
    """What all sections need. `bandwidth` is in bytes per millisecond, `table` only in memory."""

    device: torch.device
    toy: bool
    bandwidth: float
    table: Table


def hardware(device: torch.device) -> dict[str, Any]:
    """Name, sizes, driver and versions."""
    found: dict[str, Any] = {"name": "no GPU: Triton's interpreter, times mean nothing"}
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        found = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "second_level_cache_mib": round(properties.L2_cache_size / 2**20, 1),
            "driver": driver(device),
        }
    libraries = {name: version(name) for name in ("torch", "triton", "transformers")}
    return found | {"versions": libraries | {"cuda": torch.version.cuda}}


def driver(device: torch.device) -> dict[str, str] | None:
    """What nvidia-smi says now; None where it says nothing."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    which = [] if uuid is None else [f"--id=GPU-{uuid}"]
    ask = ["nvidia-smi", *which, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    values = said.stdout.partition("\n")[0].split(", ")
    return dict(zip(ASKED, values, strict=True)) if len(values) == len(ASKED) else None


def memory_bandwidth(device: torch.device) -> float:
    """Bytes per millisecond, read and written, of torch's copy of 1 GiB."""
    count = 2**30 if device.type == "cuda" else 2**20
    source = torch.empty(count, dtype=torch.uint8, device=device).random_()
    into = torch.empty_like(source)
    launch = partial(into.copy_, source)
    return 2 * count / medians([captured([launch] * 4, device)])[0]


def free_bytes(device: torch.device) -> int:
    """Of the GPU's memory; without one, more than a toy needs."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**62
