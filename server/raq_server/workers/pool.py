"""The processes that solve: so many at a time, a bounded queue before them, each killed when its caller has gone.

Rules
- A worker that is given back in the middle of a job is killed and replaced: that is what cancels a solve, at once
  and whatever it is doing. One more process than may work is ready, so nobody waits for the replacement.
- Nothing here blocks the event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from raq_proto.errors import Overloaded
from raq_server.log import LOG
from raq_server.metrics import Metrics
from raq_server.processes import Worker
from raq_solver.errors import BackendFailure

_SPARE: Final = 1
_START_SECONDS: Final = 60.0
_LEAST_RETRY_SECONDS: Final = 0.1
_SMOOTHING: Final = 0.1
"""Weight of the newest job in the average that the retry hint is made from."""


class Pool:
    """A fixed number of workers at work. To be opened and closed on one event loop."""

    def __init__(self, workers: int, queue: int, metrics: Metrics) -> None:
        self._number = workers
        self._queue = queue
        self._metrics = metrics
        self._all: set[Worker] = set()
        self._idle: list[Worker] = []
        self._lent: set[Worker] = set()
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._job_seconds = _LEAST_RETRY_SECONDS

    async def open(self) -> None:
        """Start all workers and wait until they take jobs."""
        await asyncio.gather(*(self._begin(self._hire()) for _ in range(self._number + _SPARE)))

    async def close(self) -> None:
        """End all workers, in the middle of a job or not."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self._all))

    @property
    def working_pids(self) -> frozenset[int]:
        """The numbers of the processes that are lent to a call."""
        return frozenset(worker.pid for worker in list(self._lent))

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker of one's own, when there is one. Raises Overloaded when too many wait already."""
        start = time.monotonic()
        found = await self._taken()
        begun = time.monotonic()
        self._metrics.queued.observe(begun - start)
        self._metrics.busy.inc()
        try:
            yield found
        finally:
            self._metrics.busy.dec()
            self._job_seconds += _SMOOTHING * (time.monotonic() - begun - self._job_seconds)
            self._give_back(found)

    async def _taken(self) -> Worker:
        place: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._serve()
        if place.done():
            return place.result()
        waiting = len(self._waiting) - 1
        if waiting >= self._queue:
            self._waiting.pop()
            self._metrics.refused.labels("queue").inc()
            wait = max(_LEAST_RETRY_SECONDS, self._job_seconds * (waiting + 1) / self._number)
            raise Overloaded(f"{waiting} calls wait for a worker already; try again later", wait)
        self._metrics.waiting.inc()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(place.result())
            raise
        finally:
            self._metrics.waiting.dec()
            if place in self._waiting:
                self._waiting.remove(place)

    def _serve(self) -> None:
        """Lend idle workers to those who wait, in their order."""
        while self._waiting and self._idle and len(self._lent) < self._number:
            place = self._waiting.popleft()
            if not place.done():
                self._lent.add(self._idle[-1])
                place.set_result(self._idle.pop())

    def _give_back(self, worker: Worker) -> None:
        self._lent.discard(worker)
        if self._closed:
            return
        if worker.working:
            self._begin(self._replace(worker))
        else:
            self._idle.append(worker)
        self._serve()

    async def _replace(self, worker: Worker) -> None:
        self._metrics.restarts.inc()
        await self._dismiss(worker)
        while True:
            try:
                await self._hire()
            except (OSError, EOFError, BackendFailure, TimeoutError):
                LOG.exception("a worker could not be started; trying again")
                await asyncio.sleep(1)
            else:
                return

    async def _hire(self) -> None:
        worker = Worker()
        self._all.add(worker)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await worker.start()
        except asyncio.CancelledError:
            raise  # closing: `close` ends it
        except BaseException:
            await self._dismiss(worker)
            raise
        self._idle.append(worker)
        self._serve()

    async def _dismiss(self, worker: Worker) -> None:
        await worker.end()
        self._all.discard(worker)

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
