"""Async wrapper around the blocking database: threads, a timeout, and writes in the background."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from raq_server.store.claims import RENEW_SECONDS
from raq_server.store.database import Database
from raq_server.telemetry.log import LOG
from raq_server.telemetry.metrics import Metrics
from raq_solver.errors import ServiceError, ServiceUnavailable

_SECONDS: Final = 30.0
"""Longest wait for the database; its own timeouts are shorter."""
_END_SECONDS: Final = 5.0
_THREADS: Final = 4
_WRITE_SECONDS: Final = 0.1
_MOST_UNWRITTEN: Final = 64 * 2**20
"""Bytes of answers that may wait to be written; more are not stored."""
_PAUSES: Final = 0.02, 0.5
"""First and longest time between two looks for the answer of another server."""

Result = TypeVar("Result")


class AsyncStore:
    """The database for code on the event loop."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self.database = database
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="raq store")
        self._unwritten: dict[bytes, tuple[bytes, ...]] = {}
        self._unwritten_bytes = 0
        self._claimed: set[bytes] = set()
        self._released: set[bytes] = set()
        self._writer: asyncio.Task[None] | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def ask(self, query: Callable[[], Result]) -> Result:
        """Run a blocking query in a thread. Raises ServiceUnavailable if the database fails or takes too long."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, query)
        try:
            # Not wait_for: in Python 3.11 it loses a cancellation that arrives together with the result.
            async with asyncio.timeout(_SECONDS):
                return await running
        except TimeoutError:
            self._metrics.store_errors.inc()
            raise ServiceUnavailable("the server's store does not answer; try again later") from None
        except ServiceError as error:
            self._metrics.store_errors.inc()
            LOG.warning("the store failed", extra={"fields": {"what": str(error), "cause": str(error.__cause__)}})
            raise

    async def answers(self, key: bytes) -> tuple[bytes, ...] | None:
        """Proven answers to a request. None if there are none, also if the database fails: then it is solved again."""
        try:
            found = await self.ask(partial(self.database.answers, key.hex()))
        except ServiceError:
            found = None
        self._metrics.cache.labels("store", "hit" if found else "miss").inc()
        return found

    async def answers_or_claim(self, key: bytes, until: float) -> tuple[tuple[bytes, ...] | None, bool]:
        """Proven answers to a request; if there are none, whether the request was claimed and is to be released.

        While another server has claimed it, this waits for its answer: at most half of the time until `until` (on
        `time.monotonic`), so that a search of its own still has the other half.
        """
        if not self.database.shared:
            return await self.answers(key), False
        patience = (time.monotonic() + until) / 2
        pause, longest = _PAUSES
        while True:
            try:
                found, claimed = await self.ask(partial(self.database.answers_or_claim, key.hex()))
            except ServiceError:
                found, claimed = None, False
                patience = 0.0
            if claimed:
                self._claim(key)
            left = patience - time.monotonic()
            if found is not None or claimed or left <= 0:
                self._metrics.cache.labels("store", "hit" if found else "miss").inc()
                return found, claimed
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, longest)

    def release(self, key: bytes) -> None:
        """End the claim of a request in the background, after the answers that were kept before are stored."""
        self._claimed.discard(key)
        self._released.add(key)
        self._begin_to_write()

    def _claim(self, key: bytes) -> None:
        self._claimed.add(key)
        if self._renewer is None or self._renewer.done():
            self._renewer = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        while self._claimed:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(ServiceError):  # then they end, and others may search for the same
                await self.ask(partial(self.database.renew_claims, [key.hex() for key in self._claimed]))

    def keep(self, key: bytes, answers: tuple[bytes, ...]) -> None:
        """Store proven answers in the background. If that fails they are computed again."""
        size = sum(map(len, answers))
        if self._unwritten_bytes + size > _MOST_UNWRITTEN:
            return
        self._unwritten[key] = answers
        self._unwritten_bytes += size
        self._begin_to_write()

    def _begin_to_write(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Write what there is, in one transaction every `_WRITE_SECONDS`: each costs a search's time and a sync."""
        while self._unwritten or self._released:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WRITE_SECONDS):
                    await self._closing.wait()
            batch = {key.hex(): answers for key, answers in self._unwritten.items()}
            released = [key.hex() for key in self._released]
            self._unwritten, self._unwritten_bytes, self._released = {}, 0, set()
            try:
                if batch:
                    await self.ask(partial(self.database.put_answers, batch))
            except ServiceError:
                LOG.warning("answers were not stored", extra={"fields": {"count": len(batch)}})
            if released:
                with suppress(ServiceError):  # then they end by themselves
                    await self.ask(partial(self.database.release_claims, released))

    async def close(self) -> None:
        """Write what is left, finish running queries, for at most a few seconds, and close the database."""
        self._closing.set()
        if self._writer is not None:
            with suppress(TimeoutError):  # answers that are lost are computed again
                async with asyncio.timeout(_END_SECONDS):
                    await asyncio.gather(self._writer, return_exceptions=True)
        if self._renewer is not None:
            self._renewer.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        # A connection returned to a closed pool would stay open until it is garbage collected.
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.database.close)
