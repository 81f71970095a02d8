"""Peak memory of a piece of work, and errors when there is none left."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import psutil
import torch

from mindpress.errors import ResourceError
from mindpress.memory import give_back

SECONDS_BETWEEN_SAMPLES = 0.01


class PeakMemory:
    """`with PeakMemory(device) as peak:` then `peak.bytes`: the most held above the beginning.

    On the CPU the resident memory of this process, sampled in a thread; on CUDA what torch has
    allocated on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device, self._process = device, psutil.Process()
        self._begun, self._highest = 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._begun = torch.cuda.memory_allocated(self._device)
        else:
            gc.collect()
            give_back()  # reused pages would not be seen as taken
            self._begun = self._highest = self._process.memory_info().rss
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._device.type == "cuda":
            self._highest = torch.cuda.max_memory_allocated(self._device)
        else:
            self._stop.set()
            self._thread.join()
        self.bytes = max(0, self._highest - self._begun)

    def _watch(self) -> None:
        while True:
            self._highest = max(self._highest, self._process.memory_info().rss)
            if self._stop.wait(SECONDS_BETWEEN_SAMPLES):
                return


@contextmanager
def device_errors() -> Iterator[None]:
    """Say that memory ran out in words the user can act on."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        raise ResourceError(
            f"memory ran out: {reason}", hint="use --device cpu, or a shorter text"
        ) from None
