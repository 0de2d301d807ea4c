"""Files of the cache folder: JSON lines, for work that can continue without them if they can't be read or written."""

import json
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)


class CacheFile:
    """JSON objects, one per line; without a file if `path` is None.

    If the file can't be read or written, nothing is stored, and a warning is logged once.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def objects(self) -> Iterator[dict[str, Any]]:
        """The stored objects in order, without lines that are cut short or damaged."""
        if self._path is None:
            return
        try:
            data = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            self._go_on_without(error)
            return
        for line in data.split(b"\n"):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):  # also bytes that are not UTF-8, and numbers of thousands of digits
                continue
            if isinstance(found, dict):
                yield found

    def add(self, found: dict[str, Any]) -> None:
        """Append an object to the file immediately."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
        except OSError as error:
            self._go_on_without(error)

    def _go_on_without(self, error: OSError) -> None:
        assert self._path is not None, "it is one that failed"
        _say_once(self._path.parent, error.strerror or str(error))
        self._path = None


@cache
def _say_once(folder: Path, reason: str) -> None:
    _LOG.warning("note: the cache %s can't be used (%s): continuing without it, nothing is stored", folder, reason)
