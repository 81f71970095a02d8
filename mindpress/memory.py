"""How much memory this process holds, and the most it ever held."""

import resource
import sys
from pathlib import Path

import psutil

STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Resident memory now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """The largest resident memory since the process started.

    Linux's own high-water mark where it can be read: getrusage's also counts what the parent
    held when it started this process.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
