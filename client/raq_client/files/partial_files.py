"""Partial files: an unfinished file has a temporary name and is locked while it is being written.

A partial file whose lock is free was left by a killed process; it is removed at the next write to the same target.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

_ENDING: Final = ".partial"
_TOKEN_BYTES: Final = 4
_LONGEST_NAME: Final = 200
"""Longest target name, in bytes, to which a partial file's prefix and suffix can be added within the usual 255."""


@contextmanager
def new_partial(target: Path) -> Iterator[BinaryIO]:
    """A new partial file of `target`, open for writing and locked until the block ends. Raises OSError."""
    with _locked(target) as file:
        yield file


def remove_stale(target: Path) -> None:
    """Remove the partial files of `target` that no running process holds open."""
    start = _start(target)
    length = len(start) + 2 * _TOKEN_BYTES + len(_ENDING)
    with suppress(OSError):
        for path in target.parent.iterdir():
            if path.name.startswith(start) and path.name.endswith(_ENDING) and len(path.name) == length:
                _remove_if_stale(path)


def remove_stale_in(folder: Path) -> None:
    """Remove all partial files in a folder that no running process holds open."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(".") and path.name.endswith(_ENDING):
                _remove_if_stale(path)


def _start(target: Path) -> str:
    """The prefix of the names of a file's partial files."""
    name = os.fsencode(target.name)
    return f".{target.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()}."


def _locked(target: Path) -> BinaryIO:
    while True:
        path = target.with_name(f"{_start(target)}{secrets.token_hex(_TOKEN_BYTES)}{_ENDING}")
        file = path.open("xb")
        with suppress(OSError):  # without locks in the file system, no process considers the file stale either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process removed it as stale before it was locked


def _remove_if_stale(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)
