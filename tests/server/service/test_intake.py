"""Receiving requests: places, time and bytes are bounded, for all clients and for each."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from raq_proto.errors import Overloaded
from raq_server.service.intake import Intake
from raq_solver.errors import DeadlineExceeded


def run(test: Coroutine[Any, Any, None]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(200):
            await test

    asyncio.run(timed())


async def settled() -> None:
    """Return when all tasks have gone as far as they can."""
    for _ in range(200):
        await asyncio.sleep(0)


class Parts:
    """Messages that come when `more` is set; counts those that were asked for."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.asked = 0
        self.more = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        await self.more.wait()
        if not self.parts:
            raise StopAsyncIteration
        return self.parts.pop(0)


def test_only_so_many_messages_are_received_at_a_time_and_a_client_has_half_of_the_places() -> None:
    async def test() -> None:
        intake = Intake(limit=400, largest=100, seconds=10, idle_seconds=10)
        arriving = [Parts(b"x") for _ in range(6)]

        async def call(client: str, parts: Parts) -> None:
            async with intake.call(client) as receiving:
                assert await receiving.one(parts) == b"x"

        calls = [asyncio.create_task(call("a" if i < 4 else f"b{i}", parts)) for i, parts in enumerate(arriving)]
        await settled()
        assert [parts.asked for parts in arriving] == [1, 1, 0, 0, 1, 1], "two places of a, which has no more"
        for parts in arriving:
            parts.more.set()
        await asyncio.gather(*calls)
        assert intake.held == 0

    run(test())


@pytest.mark.parametrize(("seconds", "idle"), [(0.05, 10.0), (10.0, 0.05)])
def test_a_request_that_does_not_come_ends(seconds: float, idle: float) -> None:
    async def test() -> None:
        intake = Intake(limit=400, largest=100, seconds=seconds, idle_seconds=idle)
        async with intake.call("a") as receiving:
            with pytest.raises(DeadlineExceeded, match="did not come in time"):
                await receiving.one(Parts(b"x"))
        parts = Parts(b"x")
        parts.more.set()
        async with intake.call("a") as receiving:
            assert await receiving.one(parts) == b"x", "its place is free again"

    run(test())


def test_bytes_count_until_their_call_is_answered() -> None:
    async def test() -> None:
        intake = Intake(limit=400, largest=100, seconds=10, idle_seconds=10)

        async def received(client: str, size: int, until: asyncio.Event) -> int:
            parts = Parts(*[bytes(50)] * (size // 50))
            parts.more.set()
            async with intake.call(client) as receiving:
                total = sum([len(part) async for part in receiving.all(parts)])
                await until.wait()
                return total

        enough = asyncio.Event()
        kept = [asyncio.create_task(received(client, 200, enough)) for client in ("a", "b")]
        await settled()
        assert intake.held == 400
        with pytest.raises(Overloaded, match="the running calls of a hold 200 bytes, the most that one client may"):
            await received("a", 50, enough)
        with pytest.raises(Overloaded, match="the running calls hold 400 bytes"):
            await received("c", 50, enough)
        enough.set()
        assert await asyncio.gather(*kept) == [200, 200]
        assert intake.held == 0
        assert await received("a", 200, enough) == 200

    run(test())
