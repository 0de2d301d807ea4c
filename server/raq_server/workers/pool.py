"""Runs jobs, a bounded number at a time: pure knapsacks in threads, all others in a process each.

Rules
- The native search of a pure knapsack releases the interpreter lock and looks about 50 times a second whether its job
  is cancelled. OR-Tools can't be ended, so what may need it runs in a process that can be killed.
- Large requests run in a process too: reading them would keep the interpreter lock, and so the event loop, for long.
- Nothing here blocks the event loop.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from raq_proto.errors import Overloaded
from raq_server.telemetry.metrics import Metrics
from raq_server.workers import handlers, process
from raq_server.workers.handlers import Answer
from raq_server.workers.job import LARGE, Job
from raq_server.workers.turns import Turns

_LEAST_RETRY_SECONDS: Final = 0.1
_SMOOTHING: Final = 0.1
"""Weight of the newest job in the average that the retry hint is made from."""
_END_SECONDS: Final = 5.0
_THREADS: Final = 2
"""Threads of a job: one works, and one waits to close it when it is cancelled."""


class Pool:
    """Runs at most `workers` jobs; at most `queue` wait. To be used on one event loop."""

    def __init__(self, workers: int, queue: int, metrics: Metrics) -> None:
        self._workers = workers
        self._queue = queue
        self._metrics = metrics
        self._turns = Turns(workers)
        self._running: dict[Job, float] = {}
        """The jobs, and when they began."""
        self._threads = ThreadPoolExecutor(_THREADS * workers, "raq solver")
        self._job_seconds = _LEAST_RETRY_SECONDS

    async def open(self) -> None:
        """Get ready to start processes. Raises OSError."""
        await asyncio.to_thread(process.start_template)

    async def close(self) -> None:
        """Cancel all jobs and wait for their end, for at most a few seconds."""
        for job in list(self._running):
            job.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.to_thread(self._threads.shutdown)

    @property
    def process_ids(self) -> frozenset[int]:
        """The processes that solve at this moment."""
        return frozenset(job.process_id for job in list(self._running) if job.process_id is not None)

    async def answers(self, job: Job) -> AsyncGenerator[Answer, None]:
        """The answers to a job, each found when it is asked for. Closing this generator cancels the job at once.

        Raises Overloaded when too many jobs wait already, and what the job raises.
        """
        arrived = time.monotonic()
        await self._turn(job)
        self._metrics.queued.observe(time.monotonic() - arrived)
        self._metrics.busy.inc()
        self._running[job] = time.monotonic()
        found = _answers(job)
        try:
            while (answer := await asyncio.wrap_future(self._threads.submit(_next, job, found))) is not None:
                yield answer
                if job.ended:
                    return
        finally:
            if job.ended:
                self._ended(job)
            else:
                job.cancel()
                loop = asyncio.get_running_loop()
                closing = self._threads.submit(_close, job, found)
                closing.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended, job))

    def _ended(self, job: Job) -> None:
        """Let the next job begin. A cancelled job's turn lasts until its search has really ended."""
        seconds = time.monotonic() - self._running.pop(job)
        self._job_seconds += _SMOOTHING * (seconds - self._job_seconds)
        self._metrics.busy.dec()
        self._turns.give(job.client)

    async def _turn(self, job: Job) -> None:
        """Wait until the job may begin."""
        waiting = self._turns.waiting
        if waiting >= self._queue and not self._turns.is_free(job.client, alone=job.alone):
            self._metrics.refused.labels("queue").inc()
            wait = max(_LEAST_RETRY_SECONDS, self._job_seconds * (waiting + 1) / self._workers)
            raise Overloaded(f"{waiting} calls wait for a worker already; try again later", wait)
        self._metrics.waiting.inc()
        try:
            await self._turns.take(job.client, alone=job.alone)
        finally:
            self._metrics.waiting.dec()


def _answers(job: Job) -> Generator[Answer, None, None]:
    """The answers, found in the calling thread or in a process. Reading the request is part of the first one."""
    if len(job.request) < LARGE:
        message = handlers.read(job.method, job.request)
        if not handlers.needs_process(job.method, message) and not job.names_large_profile(message.problem):
            yield from handlers.answers(job.method, message, job)
            return
    yield from process.answers(job)


def _next(job: Job, found: Generator[Answer, None, None]) -> Answer | None:
    with job.lock:
        answer = next(found, None)
        if answer is None or job.single:
            found.close()  # ends the process of a job that has one
            job.ended = True
        return answer


def _close(job: Job, found: Generator[Answer, None, None]) -> None:
    with job.lock:  # waits for a thread that is still inside the generator
        found.close()
