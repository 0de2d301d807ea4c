"""Single flight: equal requests at the same time share one search.

Rules
- A call joins a running search only if it loses at most a tenth of its own time by that.
- A search runs as long as one call reads it; the last that leaves cancels it.
- Back-pressure: the next answer is computed only when the fastest reader waits for it, and at most `buffer_bytes` are
  held for the slowest.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from raq_server.telemetry.metrics import Metrics
from raq_solver.errors import ServiceUnavailable

_LOST: Final = 0.1
"""The largest share of its remaining time that a call gives up by joining another's search."""

Answers = AsyncGenerator[tuple[bytes, bool], None]
"""Answers as they are found, and whether each is proven."""
Keep = Callable[[tuple[bytes, ...]], None]
"""Called with all answers of a search that was proven."""


class SingleFlight:
    """The running searches, by request key."""

    def __init__(self, buffer_bytes: int, metrics: Metrics) -> None:
        self._buffer = buffer_bytes
        self._metrics = metrics
        self._running: dict[bytes, list[SharedSearch]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, key: bytes, until: float) -> "AsyncGenerator[bytes, None] | None":
        """All answers of a running search, from the first on; None if there is none to join.

        `until`, on `time.monotonic`: when a search of its own would have to end.
        """
        for search in self._running.get(key, ()):
            if search.open and _about_the_same(search.until, until):
                self._metrics.joined.inc()
                return search.read()
        return None

    def start(self, key: bytes, until: float, answers: Answers, keep: Keep) -> AsyncGenerator[bytes, None]:
        """The answers of a new search that others may join. If all are proven and fit the buffer, `keep` gets them."""
        search = SharedSearch(until, self._buffer)
        self._running.setdefault(key, []).append(search)
        task = asyncio.get_running_loop().create_task(self._run(key, search, answers, keep))
        search.abandoned = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return search.read()

    async def close(self) -> None:
        """End all searches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, key: bytes, search: "SharedSearch", answers: Answers, keep: Keep) -> None:
        failure: Exception | None = ServiceUnavailable("the server is stopping")
        try:
            async with aclosing(answers) as found:
                async for answer, proven in found:
                    await search.put(answer, proven)
            failure = None
            if search.open and search.proven:
                keep(tuple(search.answers))
        except Exception as error:  # noqa: BLE001  # raised again where the answers are read
            failure = error
        finally:
            search.finish(failure)
            self._running[key].remove(search)
            if not self._running[key]:
                del self._running[key]


class SharedSearch:
    """The answers of one search, and how many each reader has taken."""

    def __init__(self, until: float, buffer_bytes: int) -> None:
        self.until = until
        self.answers: deque[bytes] = deque()
        self.proven = True
        self.open = True
        """All answers are still held and somebody reads them, so others may join."""
        self.abandoned: Callable[[], object] = lambda: None
        self._buffer = buffer_bytes
        self._first = 0
        """The number of the first answer that is still held."""
        self._size = 0
        self._ended = False
        self._failure: Exception | None = None
        self._taken: dict[object, int] = {}
        self._changed = asyncio.Event()

    async def put(self, answer: bytes, proven: bool) -> None:  # noqa: FBT001  # a pair that the search yields
        """Add an answer; returns when a reader wants the next one and the slowest is not too far behind."""
        self.answers.append(answer)
        self._size += len(answer)
        self.proven = self.proven and proven
        self.open = self.open and self._size <= self._buffer
        self._notify()
        while max(self._taken.values(), default=0) < self._first + len(self.answers) or self._size > self._buffer:
            await self._changed.wait()
            self._drop()

    def finish(self, failure: Exception | None) -> None:
        """Mark the end: no more answers come."""
        self.open, self._ended, self._failure = False, True, failure
        self._notify()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """All answers from the first on. To be closed. A reader has taken an answer when it asks for the next."""
        reader = object()
        self._taken[reader] = 0
        try:
            while True:
                place = self._taken[reader] - self._first
                if place < len(self.answers):
                    yield self.answers[place]
                    self._taken[reader] += 1
                    self._notify()
                elif not self._ended:
                    await self._changed.wait()
                elif self._failure is not None:
                    raise self._failure
                else:
                    return
        finally:
            del self._taken[reader]
            if not self._taken:
                self.open = False
                self.abandoned()
            self._notify()

    def _drop(self) -> None:
        """Drop the answers that all readers have taken, once nobody may join any more."""
        while not self.open and self.answers and min(self._taken.values(), default=0) > self._first:
            self._size -= len(self.answers.popleft())
            self._first += 1

    def _notify(self) -> None:
        # Wakes everybody who waits now; those who wait later wait for the next change.
        self._changed.set()
        self._changed.clear()


def _about_the_same(running: float, own: float) -> bool:
    """Whether a search that ends at `running` will do for a call whose own search would end at `own`."""
    return own - _LOST * (own - time.monotonic()) <= running <= own
