"""A process that runs one job apart from the dashboard: the command, its log, and how it ended.

Usage: python -m raq_client.dashboard.runner LOCK FOLDER PROGRAM ARGUMENTS..., as `launch` calls it

FOLDER gets `events.jsonl` (the command's stderr), `result.json` (its stdout), and `exit.json` when it has ended. While
the job lives, `lock` is locked and holds this process's number (LOCK is its open descriptor): a lock that is free and
no `exit.json` mean that the machine or somebody killed it. SIGTERM is passed on, once; a command that has not ended
SECONDS_TO_END later is killed.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Final

SECONDS_TO_END: Final = 20.0
EVENTS, RESULT, EXIT, LOCK = "events.jsonl", "result.json", "exit.json", "lock"


def launch(folder: Path, command: list[str], cwd: Path, environment: dict[str, str]) -> None:
    """Start a job in a session of its own. Raises OSError if it can't be started or runs already."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Taken here and handed down: from now until the last process of the job ends, the job counts as alive.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        subprocess.Popen(  # noqa: S603  # argv, no shell
            [sys.executable, "-m", "raq_client.dashboard.runner", str(lock), str(folder), *command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[lock],
        )
    finally:
        os.close(lock)


def main() -> int:
    """Run the job; always 0."""
    lock, folder, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    with (folder / RESULT).open("wb") as out, (folder / EVENTS).open("ab") as err:
        process = subprocess.Popen(  # noqa: S603  # argv, no shell
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=[lock]
        )
        _pass_on(process)
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)  # now that a signal is passed on
        code = process.wait()
    partial = folder / f"{EXIT}.partial"
    partial.write_text(json.dumps({"code": code, "ended": time.time()}))
    partial.replace(folder / EXIT)
    return 0


def _pass_on(process: "subprocess.Popen[bytes]") -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would disturb the command's cleaning up
        process.terminate()
        timer = threading.Timer(SECONDS_TO_END, process.kill)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end)
    for ignored in (signal.SIGINT, signal.SIGHUP):  # those of the dashboard's terminal
        signal.signal(ignored, signal.SIG_IGN)


def is_alive(folder: Path) -> bool:
    """Whether the job of this folder is running, by its lock."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def stop(folder: Path) -> bool:
    """Ask a running job to end; False if it is not running, or only just starting."""
    if not is_alive(folder):
        return False
    try:
        os.kill(int((folder / LOCK).read_text()), signal.SIGTERM)
    except (OSError, ValueError):
        return False
    return True


def exit_of(folder: Path) -> tuple[int, float] | None:
    """The exit code (negative: a signal) and the time it ended; None if it has not, or was killed with its runner."""
    try:
        found = json.loads((folder / EXIT).read_text())
    except (OSError, ValueError):
        return None
    return int(found["code"]), float(found["ended"])


if __name__ == "__main__":
    sys.exit(main())
