"""Ctrl-C while C code runs that calls back into Python."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is over.

    Python raises KeyboardInterrupt in whatever Python code runs next. Inside a call to libllama that would be
    one of our callbacks, where ctypes prints the exception and drops it: the interrupt would be lost.
    Does nothing outside the main thread, where Python never raises it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _frame: pending.append(number))
    if previous is None:  # a handler set from C: there is nothing to hand back to, keep out of its way
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending:
        signal.raise_signal(signal.SIGINT)
