"""A file on a web server, read by range requests, as far as it is needed.

Rules
- It must stay the file that the first request found: size, and ETag or date, are compared at every further one.
- What is worth another try (too many requests, a fault of the server, a cut connection) gets a bounded number of them,
  which go on where the last one ended.
"""

import email.utils
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from re import fullmatch
from typing import Final, Protocol

from raq_client.files.reading import damage_named
from raq_solver.errors import Fault, InvalidInput

TRIES: Final = 6
"""Requests for one range before reading it is given up."""
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 120.0
"""Seconds: the wait is doubled each time, and Retry-After is followed up to this."""
SECONDS: Final = 30.0
"""How long a request waits for the server."""
_PIECE: Final = 2**20
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED: Final = frozenset({401, 403})
_OUT_OF_RANGE: Final = 416

Address = tuple[str, Mapping[str, str]]
"""Where a file is, and the headers that the server wants."""


@dataclass(frozen=True, slots=True)
class _State:
    """What a server says about a file: its size in bytes, and its ETag, else when it was changed, else nothing."""

    size: int
    version: str


class _AgainError(Exception):
    """Worth another try; `seconds` are to pass before it, None: as usual."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Ranges(Protocol):
    """A file of which ranges can be read, wherever it is."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    @property
    def version(self) -> str:
        """What tells this file from another one at the same place."""

    def first(self, count: int) -> bytes:
        """The first `count` bytes; fewer if the file is shorter."""

    def read(self, start: int, size: int) -> bytes:
        """The `size` bytes from `start`."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of this machine, such as a copy of one on a hub."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    @property
    def version(self) -> str:
        """Its size: it is known by its name in the hub's cache."""
        return str(self.size)

    def first(self, count: int) -> bytes:
        """The first `count` bytes; fewer if the file is shorter."""
        return self.read(0, min(count, self.size))

    def read(self, start: int, size: int) -> bytes:
        """The `size` bytes from `start`. Raises InvalidInput if they can't be read."""
        with damage_named(self.path), self.path.open("rb") as file:
            file.seek(start)
            found = file.read(size)
        if len(found) != size:
            raise InvalidInput(Fault(str(self.path), "has become shorter since it was opened"))
        return found


class RangeFile:
    """A file on a server. `where` names it in messages.

    `find` returns its address; it is asked again where the server refuses one that has served before, as signed
    addresses end after a while.
    """

    def __init__(self, where: str, find: Callable[[], Address]) -> None:
        self._where, self._find = where, find
        self._address = find()
        self._known: _State | None = None

    @property
    def version(self) -> str:
        """Size and ETag (or date) in words. Raises InvalidInput if the file can't be read."""
        if self._known is None:
            self.first(1)
        assert self._known is not None, "a request has been answered"
        return f"{self._known.size} {self._known.version}"

    @property
    def size(self) -> int:
        """Bytes of the file. Raises InvalidInput if it can't be read."""
        return int(self.version.split(" ", 1)[0])

    def first(self, count: int) -> bytes:
        """The first `count` bytes; fewer if the file is shorter. Raises InvalidInput as `read` does."""
        size = count if self._known is None else min(count, self._known.size)
        return self._read(0, size, or_less=True)

    def read(self, start: int, size: int) -> bytes:
        """The `size` bytes from `start`.

        Raises InvalidInput if they can't be read in a few tries, if the server has no range requests, or if the file is
        not the one that it was at first.
        """
        return self._read(start, size)

    def _read(self, start: int, size: int, *, or_less: bool = False) -> bytes:
        found, reason, wait = bytearray(), "", _FIRST_WAIT
        for tried in range(TRIES):
            try:
                self._request(found, start, size)
            except _AgainError as error:
                reason, seconds = str(error), error.seconds
            else:
                if or_less and self._known is not None:
                    size = min(size, self._known.size - start)
                if len(found) >= size:
                    return bytes(found)
                reason, seconds = "the connection was cut", None
            if tried + 1 < TRIES:
                _sleep(min(wait if seconds is None else seconds, _LONGEST_WAIT))
                wait *= 2
        raise InvalidInput(Fault(self._where, f"can't be read: {reason}, {TRIES} times; try again later"))

    def _request(self, found: bytearray, start: int, size: int) -> None:
        """Ask once for what is missing, and append what comes."""
        begin, end = start + len(found), start + size
        try:
            with self._answer(begin, end) as response:
                self._check(response, begin)
                while len(found) < size and (data := response.read(min(_PIECE, size - len(found)))):
                    found += data
        except (OSError, HTTPException) as error:
            raise _AgainError(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _answer(self, begin: int, end: int) -> HTTPResponse:
        for again in (True, False):
            url, headers = self._address
            # The scheme has been checked, or comes from the hub: file:// is refused before.
            wanted = {**headers, "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
            request = urllib.request.Request(url, headers=wanted)  # noqa: S310
            try:
                answer: HTTPResponse = urllib.request.urlopen(request, timeout=SECONDS)  # noqa: S310
            except urllib.error.HTTPError as error:
                with error:
                    if again and self._known is not None and error.code in _REFUSED:
                        self._address = self._find()
                        continue
                    raise self._fault(error) from error
            return answer
        raise AssertionError("the second answer is final")

    def _fault(self, error: urllib.error.HTTPError) -> Exception:
        reason = answer_of(error)
        if error.code in _AGAIN:
            return _AgainError(reason, _retry_after(error.headers.get("Retry-After")))
        if error.code == _OUT_OF_RANGE and self._known is not None:
            return self._changed()
        return InvalidInput(Fault(self._where, f"can't be read: {reason}"))

    def _check(self, response: HTTPResponse, begin: int) -> None:
        """Take note of what the server says about the file, or compare it."""
        found = fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status != HTTPStatus.PARTIAL_CONTENT or found is None or int(found[1]) != begin:
            what = "the server sends no ranges of files; download the whole file, and give that"
            raise InvalidInput(Fault(self._where, what))
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        now = _State(int(found[2]), version)
        if self._known is None:
            self._known = now
        elif now != self._known:
            raise self._changed()

    def _changed(self) -> InvalidInput:
        what = "the file has changed on the server since its first bytes were read; run the command again"
        return InvalidInput(Fault(self._where, what))


def answer_of(error: urllib.error.HTTPError) -> str:
    """What a server answered, in words: the code and its meaning."""
    phrase = HTTPStatus(error.code).phrase if error.code in set(HTTPStatus) else "no reason given"
    return f"the server answers {error.code} ({phrase})"


def _retry_after(text: str | None) -> float | None:
    """The seconds that a server asks to wait, given as their number or as a date; None if it does not."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
