"""How much memory this process holds, and the most it ever held."""

import resource
import sys

import psutil


def resident_bytes() -> int:
    """Resident memory now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """The largest resident memory since the process started."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
