"""Files of the cache folder: lines that are remembered if that can be done, for work that goes on without them too."""

import json
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)


class CacheFile:
    """Objects of JSON, one a line; in no file where `path` is None.

    Where the file can't be read or written, nothing is remembered, and that is said once.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def objects(self) -> Iterator[dict[str, Any]]:
        """What was remembered, in order; a line that is cut short or damaged is left out."""
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
        """Remember an object at once."""
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
    _LOG.warning(
        "note: the cache %s can't be used (%s): going on without it, and nothing is remembered", folder, reason
    )
