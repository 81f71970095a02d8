import time

import pytest
import torch

from mindpress.engine.memory import PeakMemory, device_errors
from mindpress.errors import ResourceError

CPU = torch.device("cpu")


def test_the_peak_is_seen_after_it_is_gone():
    held = torch.ones(8 * 2**20)
    with PeakMemory(CPU) as peak:
        passing = torch.ones(16 * 2**20)
        time.sleep(0.05)
        del passing
    assert 56 * 2**20 < peak.bytes < 128 * 2**20
    assert held.sum() > 0


def test_memory_that_the_allocator_kept_counts_again():
    """Freed parts below one that is still held stay with the process unless given back."""
    torch.ones(4 * 2**20)  # glibc puts smaller parts on its heap from now on
    parts = [torch.ones(2**18) for _ in range(65)]
    del parts[:-1]
    with PeakMemory(CPU) as peak:
        again = [torch.ones(2**18) for _ in range(60)]
        time.sleep(0.05)
        del again
    assert peak.bytes > 50 * 2**20


def test_no_memory_left_is_said_in_words():
    with pytest.raises(ResourceError, match="memory ran out"), device_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
