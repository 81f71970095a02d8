"""Raw tensor files, written by other threads while the next tensor is being read."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from mindpress.checkpoint.disk import disk_errors

WRITERS = 2
STRIP = 128


class TensorFiles:
    """`with TensorFiles(folder) as files:` and `files.write(name, tensor)`.

    A failure to write is raised by a later `write` or when the block ends. Peak memory: twice as
    many tensors as there are writers. `digests` are the SHA-256 of the files that are written so
    far, by name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.digests: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: deque[Future[None]] = deque()
        self._buffers = threading.local()

    def __enter__(self) -> "TensorFiles":
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Queue a tensor for the file `name`, in the order of its rows. It must not change."""
        while len(self._pending) >= WRITERS:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._write, name, tensor))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()

    def _write(self, name: str, tensor: Tensor) -> None:
        if not tensor.is_contiguous():
            tensor = _in_rows(tensor, self._buffer(tensor))
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        with disk_errors(self._folder / name):
            _write_bytes(self._folder / name, data)
        self.digests[name] = sha256(data).hexdigest()

    def _buffer(self, tensor: Tensor) -> Tensor:
        """Room for a tensor. Kept for the next one: fresh pages cost more than the copy."""
        buffer = getattr(self._buffers, "bytes", None)
        if buffer is None or len(buffer) < tensor.nbytes:
            buffer = self._buffers.bytes = torch.empty(tensor.nbytes, dtype=torch.uint8)
        return buffer[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Operations of torch run on the thread that calls them: the threads share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_rows(tensor: Tensor, into: Tensor) -> Tensor:
    """Copy to `into`, in the order of rows. Strips of a transposed matrix stay in the cache: half
    the time of one copy."""
    for strip, part in zip(into.split(STRIP, -1), tensor.split(STRIP, -1), strict=True):
        strip.copy_(part)
    return into


def _write_bytes(file: Path, data: memoryview) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        if hasattr(os, "posix_fallocate") and len(data):
            os.posix_fallocate(handle, 0, len(data))  # in one piece, or a full disk shows here
        while len(data):
            data = data[os.write(handle, data) :]
        if hasattr(os, "posix_fadvise"):
            # The disk starts to write now; the sync at the end would wait for all of it.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
