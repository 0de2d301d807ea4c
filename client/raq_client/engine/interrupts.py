"""Ctrl-C, and other signals that end a command, while C code runs that calls back into Python."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Hold back a Ctrl-C, and other signals to end, until the block is over.

    Python raises KeyboardInterrupt in whatever Python code runs next. Inside a call to libllama that would be
    one of our callbacks, where ctypes prints the exception and drops it: the interrupt would be lost.
    Does nothing outside the main thread, where Python never raises it, nor for signals that Python does not handle.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    handled = {number: handler for number in _ENDING if callable(handler := signal.getsignal(number))}
    for number in handled:
        signal.signal(number, lambda number, _frame: pending.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])
