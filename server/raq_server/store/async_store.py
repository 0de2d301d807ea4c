"""The store behind the event loop: blocking calls in threads, bounded in time, and the memory before it."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from raq_server.log import LOG
from raq_server.metrics import Metrics
from raq_server.store import Store
from raq_solver.errors import ServiceUnavailable

_SECONDS: Final = 30.0
"""Longest that a call of the store is waited for; a PostgreSQL that hangs gives up by itself before."""
_END_SECONDS: Final = 5.0
_THREADS: Final = 4

Result = TypeVar("Result")


class Memory:
    """Bytes by key, the longest unused ones dropped when all together take more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._size = 0

    @property
    def most(self) -> int:
        """The most bytes that are kept under one key."""
        return self._limit // 8

    def get(self, key: bytes) -> tuple[bytes, ...] | None:
        """What is kept under that key."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, contents: tuple[bytes, ...]) -> None:
        """Keep these, unless they are more than `most`."""
        size = _size(key, contents)
        if size > self.most or key in self._kept:
            return
        self._kept[key] = contents
        self._size += size
        while self._size > self._limit:
            self._size -= _size(*self._kept.popitem(last=False))


class Backroom:
    """Asks the store without blocking the event loop."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self.store = store
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="raq store")
        self._writing: set[asyncio.Future[None]] = set()

    async def ask(self, question: Callable[[], Result]) -> Result:
        """The answer of the store. Raises ServiceUnavailable when it does not come."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, question)
        try:
            async with asyncio.timeout(
                _SECONDS
            ):  # not wait_for, which in Python 3.11 loses a cancellation now and then
                return await running
        except TimeoutError:
            self._metrics.store_errors.inc()
            raise ServiceUnavailable("the server's store does not answer; try again later") from None
        except ServiceUnavailable:
            self._metrics.store_errors.inc()
            raise

    async def known(self, problem: str) -> bytes | None:
        """A proven outcome. A store that fails knows nothing: the problem is solved again."""
        try:
            found = await self.ask(lambda: self.store.outcome(problem))
        except ServiceUnavailable:
            found = None
        self._metrics.cache.labels("store", "hit" if found else "miss").inc()
        return found

    def remember(self, problem: str, content: bytes) -> None:
        """Keep a proven outcome, some time soon. Losing one costs only time."""

        async def write() -> None:
            try:
                await self.ask(lambda: self.store.put_outcome(problem, content))
            except ServiceUnavailable:
                LOG.warning("an outcome was not stored", extra={"fields": {"problem": problem}})

        task = asyncio.get_running_loop().create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Finish what is being written and asked, as far as the store answers, and close it."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        # A connection that is given back after the store was closed would stay open until it is collected.
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.store.close)


def _size(key: bytes, contents: tuple[bytes, ...]) -> int:
    return len(key) + sum(map(len, contents))
