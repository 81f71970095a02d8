"""An end to Python code of others that would not come to one by itself."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Timer, get_ident


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in this block, and only in it, when it takes longer than `seconds`.

    It comes between two steps of Python: a single call of a C function is not interrupted.
    """
    thread, lock, over = ctypes.c_ulong(get_ident()), Lock(), False
    interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def stop() -> None:
        with lock:
            if not over:
                interrupt(thread, ctypes.py_object(TimeoutError))

    timer = Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
            interrupt(thread, None)  # what was sent at the last moment must not come later
        timer.cancel()
