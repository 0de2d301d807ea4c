"""Locks of outputs: two commands never write one file at the same time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from raq_client.files.output_checks import target_of, unwritable
from raq_solver.errors import Fault, InvalidInput


@contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Hold the lock of an output until the block ends; the system frees it if the process is killed.

    Raises InvalidInput if another process holds it, or the folder can't be written.
    """
    target = target_of(path)
    lock = target.with_name(f".{target.name}.lock")
    try:
        file = _locked(lock)
    except BlockingIOError:
        what = f"is being written by {_holder(lock)}; wait for it, or name another file"
        raise InvalidInput(Fault(str(path), what)) from None
    except OSError as error:
        raise InvalidInput(unwritable(path, error)) from error
    with file:
        file.write(b"%d" % os.getpid())
        file.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _holder(lock: Path) -> str:
    try:
        return f"process {int(lock.read_bytes())}"
    except (OSError, ValueError):  # it has just ended, or has not written its number yet
        return "another process"


def _locked(lock: Path) -> BinaryIO:
    while True:
        # Not truncated on opening: until it is locked, the file belongs to another process.
        file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        if os.fstat(file.fileno()).st_nlink:
            file.truncate()
            return file
        file.close()  # its holder removed it before this process had the lock
