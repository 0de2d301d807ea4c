"""The processes that solve: a fixed number, a bounded queue before them, each killed when its caller has gone.

Rules
- A worker that is given back in the middle of a job is killed and replaced: that is what cancels a solve, at once
  and whatever it is doing.
- Nothing here blocks the event loop.
"""

import asyncio
import multiprocessing
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Final

from raq_proto.errors import Overloaded
from raq_server import worker as worker_process
from raq_server.frames import LENGTH, Tag, frame, parsed
from raq_server.log import LOG
from raq_server.metrics import Metrics
from raq_solver.errors import BackendFailure

_PRELOAD: Final = ["raq_server.worker"]
_START_SECONDS: Final = 60.0
_LEAST_RETRY_SECONDS: Final = 0.1
_SMOOTHING: Final = 0.1
"""Weight of the newest job in the average that the retry hint is made from."""


@dataclass(eq=False)
class Worker:
    """The server's end of one worker process."""

    process: BaseProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    working: bool = False

    async def send(self, tag: Tag, content: bytes = b"") -> None:
        """Send a frame. Raises BackendFailure when the process has ended."""
        self.working = self.working or tag is Tag.JOB
        try:
            self.writer.write(frame(tag, content))
            await self.writer.drain()
        except ConnectionError as error:
            raise self._ended() from error

    async def receive(self) -> tuple[Tag, bytes]:
        """Wait for a frame. Raises BackendFailure when the process has ended."""
        try:
            (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
            tag, content = parsed(await self.reader.readexactly(length))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise self._ended() from error
        if tag in {Tag.END, Tag.ERROR, Tag.BUG}:
            self.working = False
        return tag, content

    def _ended(self) -> BackendFailure:
        self.working = True  # whatever it was doing: it can't be used again
        return BackendFailure("the process that solved this ended; was it out of memory?")


class Pool:
    """A fixed number of workers. To be opened and closed on one event loop."""

    def __init__(self, workers: int, queue: int, metrics: Metrics) -> None:
        self._number = workers
        self._queue = queue
        self._metrics = metrics
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._replacing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._job_seconds = _LEAST_RETRY_SECONDS
        # A process that never had threads or channels is forked from: quick to replace a worker by, and safe.
        self._context = multiprocessing.get_context("forkserver")

    async def open(self) -> None:
        """Start all workers and wait until they take jobs."""
        self._context.set_forkserver_preload(_PRELOAD)
        self._idle = list(await asyncio.gather(*(self._started() for _ in range(self._number))))

    async def close(self) -> None:
        """End all workers, in the middle of a job or not."""
        self._closed = True
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=True)
        await asyncio.gather(*map(self._ended, list(self._all)))

    @property
    def pids(self) -> frozenset[int]:
        """The numbers of the workers' processes."""
        return frozenset(worker.process.pid for worker in list(self._all) if worker.process.pid is not None)

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
        if self._idle:
            return self._idle.pop()
        if len(self._waiting) >= self._queue:
            self._metrics.refused.labels("queue").inc()
            wait = max(_LEAST_RETRY_SECONDS, self._job_seconds * (len(self._waiting) + 1) / self._number)
            raise Overloaded(f"{len(self._waiting)} calls wait for a worker already; try again later", wait)
        place: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
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

    def _give_back(self, worker: Worker) -> None:
        if self._closed:
            return
        if worker.working:
            task = asyncio.get_running_loop().create_task(self._replace(worker))
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)
            return
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(worker)
                return
        self._idle.append(worker)

    async def _replace(self, worker: Worker) -> None:
        self._metrics.restarts.inc()
        await self._ended(worker)
        while True:
            try:
                self._give_back(await self._started())
            except (OSError, EOFError, BackendFailure, TimeoutError):
                LOG.exception("a worker could not be started; trying again")
                await asyncio.sleep(1)
            else:
                return

    async def _started(self) -> Worker:
        ours, theirs = socket.socketpair()
        process = self._context.Process(target=worker_process.main, args=(theirs,), daemon=True, name="raq worker")
        try:
            await asyncio.to_thread(process.start)
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = Worker(process, reader, writer)
        self._all.add(worker)
        await asyncio.wait_for(worker.receive(), _START_SECONDS)
        return worker

    async def _ended(self, worker: Worker) -> None:
        self._all.discard(worker)
        worker.process.kill()
        worker.writer.close()
        await asyncio.to_thread(worker.process.join)
        worker.process.close()
