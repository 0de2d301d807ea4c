"""Files that appear whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from raq_solver.errors import Fault, InvalidInput


@contextmanager
def atomic_file(path: Path, *, force: bool = False, needed: int = 0) -> Iterator[BinaryIO]:
    """A new file open for writing, which takes the name `path` when the block ends without an error.

    Until then it lies beside it under another name, and any error or interrupt removes it. `needed` bytes are looked
    for before anything is written. Raises InvalidInput if `path` exists and not `force`, and if there is no room,
    no such folder or no permission.
    """
    check_output(path, force=force)
    _check_room(path, needed)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Somebody may have written there meanwhile.
        check_output(path, force=force)
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InvalidInput(_fault(path, error, needed)) from error
    finally:
        partial.unlink(missing_ok=True)


def check_output(path: Path, *, force: bool) -> None:
    """Raise InvalidInput if nothing can be written at `path`, or something is there and not `force`."""
    if path.is_dir():
        raise InvalidInput(Fault(str(path), "is a folder; name a file"))
    if not path.parent.is_dir():
        raise InvalidInput(Fault(str(path), f"there is no folder {path.parent}; create it first"))
    if path.exists() and not force:
        raise InvalidInput(Fault(str(path), "exists; name another file, or overwrite it with --force"))


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise InvalidInput(_no_room(path, needed, free))


def _fault(path: Path, error: OSError, needed: int) -> Fault:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_room(path, needed, shutil.disk_usage(path.parent).free)
    return Fault(str(path), f"can't be written: {error.strerror or error}")


def _no_room(path: Path, needed: int, free: int) -> Fault:
    size = f"{needed:,} bytes are needed" if needed else "more bytes are needed"
    return Fault(str(path), f"no room on the disk: {size}, {free:,} are free in {path.parent}")


def _sync_folder(folder: Path) -> None:
    """Make the new name as durable as the bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
