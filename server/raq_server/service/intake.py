"""Receiving requests: when their bytes are read, and how many of them the server holds.

Rules
- Nothing of a request is read before its caller is admitted, and then only while it has a place among those that are
  being received. Of a call that waits, gRPC holds no more than its flow-control window.
- A request must be whole within its time.
- The bytes of all requests that were read and not yet answered are bounded, for all clients and for each.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from raq_proto.errors import Overloaded
from raq_solver.errors import DeadlineExceeded, Fault, InvalidInput

_RETRY_SECONDS: Final = 1.0


class Intake:
    """Room for requests of at most `largest` bytes a message, `limit` bytes in all.

    A client gets one part in `share` of places and bytes, at least one message and one request of `whole` bytes. A
    message must come within `idle_seconds`, a whole request within `seconds`. A message of more than `accepted` bytes
    is refused before it is decoded; gRPC itself refuses messages of more than `largest`.
    """

    def __init__(
        self,
        limit: int,
        largest: int,
        seconds: float,
        idle_seconds: float,
        share: int = 2,
        whole: int = 0,
        accepted: int | None = None,
    ) -> None:
        places = max(1, limit // largest)
        # A request of several messages is a little larger than what they carry.
        least = whole + largest if whole else largest
        self._limit = max(limit, least)
        self._most = max(self._limit // share, least)
        self._places, self._each = asyncio.Semaphore(places), max(1, places // share)
        self._seconds, self._idle = seconds, idle_seconds
        self._accepted = largest if accepted is None else accepted
        self._held: Counter[str] = Counter()
        self._of: dict[str, tuple[asyncio.Semaphore, list[int]]] = {}

    @property
    def held(self) -> int:
        """Bytes of requests that are held now."""
        return self._held.total()

    @asynccontextmanager
    async def call(self, client: str) -> AsyncIterator["Receiving"]:
        """Receive the request of one call; its bytes count until the block ends."""
        own, calls = self._of.setdefault(client, (asyncio.Semaphore(self._each), [0]))
        calls[0] += 1
        receiving = Receiving(self, client, own, time.monotonic() + self._seconds)
        try:
            yield receiving
        finally:
            self._held[client] -= receiving.size
            calls[0] -= 1
            if not calls[0]:
                del self._of[client], self._held[client]

    async def next(self, parts: AsyncIterator[bytes], receiving: "Receiving") -> bytes | None:
        """The next message of a call; None at the end of its request."""
        left = min(self._idle, receiving.until - time.monotonic())
        try:
            async with asyncio.timeout(left), receiving.own, self._places:
                part = await anext(parts, None)
        except TimeoutError:
            raise DeadlineExceeded("the request, or its next part, did not come in time") from None
        if part is not None and len(part) > self._accepted:
            raise InvalidInput(Fault("request", f"has more than {self._accepted:,} bytes, the most for this method"))
        if part is not None:
            self._take(receiving, len(part))
        return part

    def _take(self, receiving: "Receiving", size: int) -> None:
        self._held[receiving.client] += size
        receiving.size += size
        if self._held[receiving.client] > self._most:
            what = f"the running calls of {receiving.client} hold {self._most:,} bytes, the most that one client may"
            raise Overloaded(what, _RETRY_SECONDS)
        if self.held > self._limit:
            raise Overloaded(
                f"the running calls hold {self._limit:,} bytes, all that there is room for", _RETRY_SECONDS
            )


class Receiving:
    """The request of one call while it is received: its client, its bytes so far, and when it must be whole."""

    def __init__(self, intake: Intake, client: str, own: asyncio.Semaphore, until: float) -> None:
        self.client, self.own, self.until = client, own, until
        self.size = 0
        self._intake = intake

    async def one(self, parts: AsyncIterator[bytes]) -> bytes | None:
        """The only message of a request; None if it has none. Raises DeadlineExceeded and Overloaded."""
        return await self._intake.next(parts, self)

    async def all(self, parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """All messages of a request, each when it is asked for. Raises DeadlineExceeded and Overloaded."""
        while (part := await self._intake.next(parts, self)) is not None:
            yield part
