"""The user's cache folder: what its parts hold, and their removal.

Everything in it can be made again, so it may be removed at any time, even while a command runs.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults

LOOSE: Final = "."
"""The name of the part that holds the files beside the folders."""
_SECONDS_PER_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class CachePart:
    """A folder of the cache, with the number of its files and their bytes."""

    name: str
    files: int
    size: int


def cache_parts(folder: Path) -> tuple[CachePart, ...]:
    """The parts of a cache folder, in order of their names; none if it does not exist.

    Raises InvalidInput if it can't be read.
    """
    parts = []
    for name, root in _roots(folder).items():
        sizes = [found.st_size for _, found in _files(name, root)]
        parts.append(CachePart(name, len(sizes), sum(sizes)))
    return tuple(parts)


def clean_cache(folder: Path, names: Sequence[str] = (), *, days: float = 0) -> tuple[CachePart, ...]:
    """Remove the files of these parts, of all without `names`, that were not changed for `days`; what was removed.

    Raises InvalidInput with every name that is no part, and with every file that can't be removed.
    """
    roots = _roots(folder)
    unknown = [name for name in names if name not in roots]
    raise_faults([Fault(name, f"is no part of the cache{near_misses(name, roots)}") for name in unknown])
    before = time.time() - days * _SECONDS_PER_DAY
    removed = []
    faults: list[Fault] = []
    for name in names or roots:
        gone = []
        for path, found in list(_files(name, roots[name])):
            if days and found.st_mtime >= before:
                continue
            try:
                path.unlink()
                gone.append(found.st_size)
            except FileNotFoundError:
                continue  # another process was quicker
            except OSError as error:
                faults.append(Fault(str(path), f"can't be removed: {error.strerror or error}"))
        removed.append(CachePart(name, len(gone), sum(gone)))
        if name != LOOSE:
            _remove_empty(roots[name])
    raise_faults(faults)
    return tuple(removed)


def _roots(folder: Path) -> dict[str, Path]:
    """The parts by name: every real folder, and the loose files if there are any."""
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InvalidInput(Fault(str(folder), f"can't be read: {error.strerror or error}")) from error
    folders = {entry.name: entry for entry in entries if entry.is_dir() and not entry.is_symlink()}
    return folders | ({LOOSE: folder} if len(folders) < len(entries) else {})


def _files(name: str, root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a part with their status; links are not followed."""
    for path, folders, names in os.walk(root):
        if name == LOOSE:
            folders.clear()  # the other parts
        for each in names:
            file = Path(path) / each
            with suppress(OSError):
                yield file, file.lstat()


def _remove_empty(root: Path) -> None:
    for path, _, _ in os.walk(root, topdown=False):
        with suppress(OSError):  # not empty
            Path(path).rmdir()
