"""The streams of the process, which may be closed or fail, and the signals that end it."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

EXIT_NOBODY_READS: Final = 141
"""Exit code where the reader of standard output has gone: 128 and the number of SIGPIPE."""
_SECONDS_TO_END: Final = 2.0
"""Seconds in which further signals count as the same one: a closing terminal sends SIGHUP twice."""


def open_streams() -> None:
    """Open those of the three streams that the process was started without, and make none fail for a character.

    A file that is opened while standard output is closed would get its number, and prints would go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def close_streams() -> None:
    """Flush the streams; drop what can't be written because the reader has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            if isinstance(stream, io.TextIOWrapper):  # or Python would try again when it ends, and complain
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block on SIGTERM and SIGHUP as Ctrl-C does, so that it can clean up: by SystemExit, 128 and the number.

    A signal that the process was started to ignore (nohup) stays ignored.
    """
    last: float | None = None

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if before is None or last - before >= _SECONDS_TO_END:
            raise SystemExit(128 + number)

    kept = []
    if threading.current_thread() is threading.main_thread():
        kept = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for number in kept:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in kept:  # a process that is ending must not be killed on the way out
            signal.signal(number, signal.SIG_DFL if last is None else signal.SIG_IGN)
