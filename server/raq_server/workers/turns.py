"""Turns of jobs on a bounded number of workers: clients take turns, and no client can have all workers."""

import asyncio
from collections import Counter, OrderedDict, deque


class Turns:
    """Whose job begins next. To be used on one event loop.

    A client has at most `workers - 1` jobs at work while there are two workers or more, unless it is `alone`: then
    there is nobody to leave a worker to. When a worker is free, the client that waited longest since its last turn is
    next.
    """

    def __init__(self, workers: int) -> None:
        self._free = workers
        self._each = max(1, workers - 1)
        self._at_work: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[tuple[asyncio.Future[None], bool]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return sum(map(len, self._waiting.values()))

    def is_free(self, client: str, *, alone: bool) -> bool:
        """Whether a job of this client could begin at once."""
        return self._free > 0 and self._may(client, alone=alone)

    async def take(self, client: str, *, alone: bool) -> None:
        """Wait for a worker; `give` returns it."""
        if self.is_free(client, alone=alone):
            self._begin(client)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append((turn, alone))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(client)  # the turn came together with the cancellation
            else:
                self._leave(client, turn)
            raise

    def give(self, client: str) -> None:
        """A job of this client has ended."""
        self._at_work[client] -= 1
        if not self._at_work[client]:
            del self._at_work[client]
        self._free += 1
        self._next()

    def _may(self, client: str, *, alone: bool) -> bool:
        return alone or self._at_work[client] < self._each

    def _begin(self, client: str) -> None:
        self._free -= 1
        self._at_work[client] += 1

    def _next(self) -> None:
        for client, turns in list(self._waiting.items()):
            if not self._free:
                return
            # A job that was cancelled is still among them until the event loop runs it, but takes no turn any more.
            turn, alone = next((each for each in turns if not each[0].done()), (None, False))
            if turn is not None and self._may(client, alone=alone):
                self._waiting.move_to_end(client)
                self._leave(client, turn)
                self._begin(client)
                turn.set_result(None)

    def _leave(self, client: str, turn: "asyncio.Future[None]") -> None:
        left = deque(each for each in self._waiting[client] if each[0] is not turn)
        if left:
            self._waiting[client] = left
        else:
            del self._waiting[client]
