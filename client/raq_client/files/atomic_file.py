"""Atomic writes: files that appear complete or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from raq_client.files.output_checks import check_output, no_room, target_of, unwritable
from raq_client.files.partial_files import new_partial, remove_stale
from raq_solver.errors import InvalidInput


@contextmanager
def atomic_file(path: Path, *, force: bool = False, needed: int = 0) -> Iterator[BinaryIO]:
    """A new file open for writing, renamed to `path` when the block ends without an error.

    Until then it has a temporary name in the same folder; an error or interrupt removes it, and leftovers of killed
    processes are removed now. If `path` is a link, its target is written and the link is kept. `needed` bytes must be
    free on the disk before anything is written. Raises InvalidInput as `check_output` does.
    """
    check_output(path, force=force, needed=needed)
    target = target_of(path)
    remove_stale(target)
    partial = None
    try:
        with new_partial(target) as file:
            partial = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
            # Another process may have written the file meanwhile.
            check_output(path, force=force)
            partial.replace(target)  # before closing: a partial file that is not held open counts as stale
        sync_folder(target.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InvalidInput(no_room(path, needed) if full else unwritable(path, error)) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync the folder, so that the new name is durable too, if the file system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
