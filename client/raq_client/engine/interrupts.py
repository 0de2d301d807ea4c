"""Handling of Ctrl-C and other terminating signals while C code runs that calls back into Python."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP until the end of the block.

    Python raises KeyboardInterrupt in the Python code that runs next. Inside a call to libllama that would be
    one of our callbacks, where ctypes prints the exception and drops it: the interrupt would be lost.
    Does nothing outside the main thread (Python never raises it there) and for signals without a Python handler.
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
