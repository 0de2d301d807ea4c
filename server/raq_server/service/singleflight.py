"""One search for all who ask the same at the same time.

Rules
- A call joins a search that runs only when it loses next to none of its own time by that.
- The search goes on as long as anybody waits for it; the last who leaves ends it.
- It runs ahead of the quickest reader by nothing and of the slowest by a bounded number of bytes.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from raq_server.backroom import Memory
from raq_server.metrics import Metrics
from raq_solver.errors import ServiceUnavailable

_LOST: Final = 0.1
"""Most of its remaining time that a call gives up by joining another's search, as a share."""

Answers = AsyncGenerator[tuple[bytes, bool], None]
"""Answers as they are found, and whether each is proven."""


class Flights:
    """The searches that run, by what was asked."""

    def __init__(self, memory: Memory, metrics: Metrics) -> None:
        self._memory = memory
        self._metrics = metrics
        self._running: dict[bytes, list[_Flight]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, key: bytes, until: float | None) -> "AsyncGenerator[bytes, None] | None":
        """The answers of a search that runs, from the first on; None when there is none to join.

        Args:
            key: What is asked.
            until: Time on `time.monotonic` at which an own search would have to end; None: never.
        """
        for flight in self._running.get(key, ()):
            if flight.open and _about_the_same(flight.until, until):
                self._metrics.joined.inc()
                return flight.read()
        return None

    def start(self, key: bytes, until: float | None, search: Answers) -> AsyncGenerator[bytes, None]:
        """The answers of a new search, which others may join. What is proven goes to the memory."""
        flight = _Flight(until, self._memory.most)
        self._running.setdefault(key, []).append(flight)
        task = asyncio.get_running_loop().create_task(self._fly(key, flight, search))
        flight.abandoned = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight.read()

    async def close(self) -> None:
        """End all searches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fly(self, key: bytes, flight: "_Flight", search: Answers) -> None:
        failure: Exception | None = ServiceUnavailable("the server is stopping")
        try:
            async with aclosing(search) as answers:
                async for answer, proven in answers:
                    await flight.put(answer, proven)
            failure = None
            if flight.open and flight.proven:
                self._memory.put(key, tuple(flight.answers))
        except Exception as error:  # noqa: BLE001  # raised again where the answers are read
            failure = error
        finally:
            flight.finish(failure)
            self._running[key].remove(flight)
            if not self._running[key]:
                del self._running[key]


class _Flight:
    """The answers of one search, and how far each of its readers has come."""

    def __init__(self, until: float | None, most: int) -> None:
        self.until = until
        self.answers: deque[bytes] = deque()
        self.proven = True
        self.open = True
        """All answers are held and somebody reads them: others may still join."""
        self.abandoned: Callable[[], object] = lambda: None
        self._most = most
        self._first = 0
        self._size = 0
        self._ended = False
        self._failure: Exception | None = None
        self._taken: dict[object, int] = {}
        self._changed = asyncio.Event()

    async def put(self, answer: bytes, proven: bool) -> None:  # noqa: FBT001  # a pair that the search yields
        """Offer an answer; returns when a reader wants the next one and the slowest is not too far behind."""
        self.answers.append(answer)
        self._size += len(answer)
        self.proven = self.proven and proven
        self.open = self.open and self._size <= self._most
        self._tell()
        while max(self._taken.values(), default=0) < self._first + len(self.answers) or self._size > self._most:
            await self._changed.wait()
            self._drop()

    def finish(self, failure: Exception | None) -> None:
        """No more answers come."""
        self.open, self._ended, self._failure = False, True, failure
        self._tell()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """All answers from the first on. To be closed; who asks for the next answer has taken the one before."""
        reader = object()
        self._taken[reader] = 0
        try:
            while True:
                place = self._taken[reader] - self._first
                if place < len(self.answers):
                    yield self.answers[place]
                    self._taken[reader] += 1
                    self._tell()
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
            self._tell()

    def _drop(self) -> None:
        """Let go of what all have taken, once nobody may join any more."""
        while not self.open and self.answers and min(self._taken.values(), default=0) > self._first:
            self._size -= len(self.answers.popleft())
            self._first += 1

    def _tell(self) -> None:
        self._changed.set()
        self._changed.clear()


def _about_the_same(running: float | None, own: float | None) -> bool:
    """Whether a search that ends at `running` will do for a call whose own would end at `own`."""
    if running is None or own is None:
        return running is own
    return own - _LOST * (own - time.monotonic()) <= running <= own
