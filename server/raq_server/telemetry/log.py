"""The log: one line per event on standard error, as JSON or as text."""

import json
import logging
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from typing import Final, Literal

LOG: Final = logging.getLogger("raq_server")
"""Every module of the server logs here; `extra={"fields": {...}}` adds fields to the line."""
_MOST_WAITING: Final = 10_000
"""Lines that may wait to be written to standard error."""


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, the event's fields, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """The same as text for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class BackgroundHandler(logging.Handler):
    """Writes lines to a file in a thread, so that a slow reader of the log does not delay calls.

    Lines are dropped when 10,000 wait to be written.
    """

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file = file
        self._lines: queue.Queue[bytes] = queue.Queue(_MOST_WAITING)
        threading.Thread(target=self._write, name="raq log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record to be written."""
        with suppress(queue.Full):
            self._lines.put_nowait(f"{self.format(record)}\n".encode(errors="replace"))

    def wait(self, seconds: float) -> None:
        """Wait until all lines are written, for at most `seconds`."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, seconds)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            with suppress(OSError):  # the reader has closed the pipe
                while line:
                    line = line[os.write(self._file, line) :]
            self._lines.task_done()


def start_log(form: Literal["json", "text"], level: str) -> BackgroundHandler:
    """Send the server's log to standard error."""
    handler = BackgroundHandler(sys.stderr.fileno())
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    LOG.handlers = [handler]
    LOG.setLevel(level.upper())
    LOG.propagate = False
    return handler


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"
