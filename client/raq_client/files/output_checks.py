"""Check that an output file can be written, before the work for it begins."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from raq_solver.errors import Fault, InvalidInput


def check_output(path: Path, *, force: bool, inputs: Iterable[Path] = (), needed: int = 0) -> None:
    """Raise InvalidInput if `path` can't be written, or if it exists without `force`.

    Even with `force`, one of the `inputs` (under any name or link) and anything but a regular file are never
    overwritten. Links are followed. The folder must accept a new file, the file system the name, and the disk must
    have `needed` bytes.
    """
    there = _status(path)
    if there is not None:
        _check_kind(path, there)
        for given in inputs:
            if is_same_file(path, given):
                what = f"is read by this command too{_other_name(path, given)} and would be lost; name another file"
                raise InvalidInput(Fault(str(path), what))
        if not force:
            raise InvalidInput(Fault(str(path), "exists; name another file, or overwrite it with --force"))
    target = target_of(path)
    if not target.parent.is_dir():
        raise InvalidInput(Fault(str(path), f"there is no folder {target.parent}; create it first"))
    _check_writable(path, target)
    if needed and shutil.disk_usage(target.parent).free < needed:
        raise InvalidInput(no_room(path, needed))


def target_of(path: Path) -> Path:
    """The file to which `path` leads when all links are followed; it need not exist."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def is_same_file(path: Path, other: Path) -> bool:
    """Whether both paths lead to the same file, even if it does not exist."""
    try:
        return path.samefile(other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)


def unwritable(path: Path, error: OSError) -> Fault:
    """The fault for a file that could not be written."""
    return Fault(str(path), f"can't be written: {error.strerror or error}; name another file")


def no_room(path: Path, needed: int) -> Fault:
    """The fault for a file that does not fit on the disk; `needed` is 0 if unknown."""
    folder = target_of(path).parent
    size = f"{needed:,} bytes are needed" if needed else "more bytes are needed"
    free = shutil.disk_usage(folder).free
    return Fault(str(path), f"no room on the disk: {size}, {free:,} are free in {folder}")


def _other_name(path: Path, given: Path) -> str:
    return "" if given == path else f" (as {given})"


def _status(path: Path) -> os.stat_result | None:
    """The status of `path`, None if nothing is there. Raises InvalidInput for a name that the system rejects."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # too long, a link to itself, a folder without permission
        raise InvalidInput(unwritable(path, error)) from error


def kind_of(mode: int) -> str:
    """What something with this mode (`st_mode`) is, if it is no regular file; empty if it is one.

    >>> kind_of(stat.S_IFIFO), kind_of(stat.S_IFREG)
    ('a pipe', '')
    """
    kinds = ((stat.S_ISREG, ""), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def _check_kind(path: Path, there: os.stat_result) -> None:
    kind = kind_of(there.st_mode)
    if kind == "a folder":
        raise InvalidInput(Fault(str(path), "is a folder; name a file"))
    if kind:
        raise InvalidInput(Fault(str(path), f"is {kind}, not a file; name a file"))


def _check_writable(path: Path, target: Path) -> None:
    """Write and remove an empty file in the folder, because permissions alone don't show whether that works."""
    probe = target.with_name(f".raq-{secrets.token_hex(8)}.probe")
    try:
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        what = f"the folder {target.parent} can't be written: {error.strerror or error}; name another"
        raise InvalidInput(Fault(str(path), what)) from error
