"""`--events`: what a command does, as JSON lines on stderr, for programs that start commands.

Each line is an object with `event` and, but for the last, what belongs to it:

- `progress`: `stage`, `done` of `total` units, and `left`, the seconds that are left (null until that is known);
- `note`: a remark, as `text`;
- `error`: why the command does not succeed, as `text`, one for each fault;
- `end`: the exit code, as `code`. A process that is killed writes none.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

SECONDS_BETWEEN: Final = 0.2
"""Least seconds between two reports of one stage: nobody reads faster."""

_lock = threading.Lock()
_is_on = False


def set_events(wanted: bool) -> None:
    """Turn events on or off."""
    global _is_on  # noqa: PLW0603  # one process has one stderr
    _is_on = wanted


def are_on() -> bool:
    """Whether remarks, progress and errors are to be JSON lines."""
    return _is_on


def emit(event: str, **fields: Any) -> None:
    """Write one event; dropped where nobody reads stderr any more."""
    line = json.dumps({"event": event, **fields}, allow_nan=False)
    with _lock, suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def reporter(
    stage: str, left: Callable[[], float | None], clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """A callback (done, total) that emits progress: the first and the last of it, and some of what is between."""
    last: float | None = None

    def report(done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if last is None or done >= total or now - last >= SECONDS_BETWEEN:
            last = now
            seconds = left()
            emit("progress", stage=stage, done=done, total=total, left=None if seconds is None else round(seconds, 1))

    return report
