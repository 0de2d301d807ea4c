"""Turns of jobs: clients take turns, nobody has all workers, and no turn is lost."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from raq_server.workers.turns import Turns


def run(test: Coroutine[Any, Any, None]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(200):
            await test

    asyncio.run(timed())


def test_one_client_leaves_a_worker_to_others() -> None:
    async def test() -> None:
        turns = Turns(2)
        await turns.take("one", alone=False)
        second = asyncio.create_task(turns.take("one", alone=False))
        await asyncio.sleep(0)
        assert not second.done(), "a second job of the same client waits"
        await turns.take("other", alone=False)
        turns.give("other")
        await asyncio.sleep(0)
        assert not second.done(), "the worker stays for others"
        turns.give("one")
        await second
        assert turns.waiting == 0

    run(test())


def test_a_client_that_is_alone_has_all_workers() -> None:
    async def test() -> None:
        turns = Turns(2)
        await turns.take("unix", alone=True)
        await turns.take("unix", alone=True)
        assert not turns.is_free("unix", alone=True)

    run(test())


def test_clients_take_turns() -> None:
    async def test() -> None:
        turns, order = Turns(1), []

        async def job(client: str) -> None:
            await turns.take(client, alone=False)
            order.append(client)
            turns.give(client)

        await turns.take("first", alone=False)
        jobs = [asyncio.create_task(job(client)) for client in "aaaabbc"]
        await asyncio.sleep(0)
        turns.give("first")
        await asyncio.gather(*jobs)
        assert order[:3] == ["a", "b", "c"], "not in the order of arrival: one of each first"
        assert Counter(order) == {"a": 4, "b": 2, "c": 1}

    run(test())


def test_a_turn_is_not_given_to_a_job_that_was_just_cancelled() -> None:
    async def test() -> None:
        turns = Turns(1)
        await turns.take("first", alone=False)
        jobs = [asyncio.create_task(turns.take("a", alone=False)) for _ in range(2)]
        await asyncio.sleep(0)
        jobs[0].cancel()
        turns.give("first")  # before the event loop has told the job
        await jobs[1]
        await asyncio.gather(*jobs, return_exceptions=True)
        assert turns.waiting == 0
        turns.give("a")
        assert turns.is_free("b", alone=False)

    run(test())


@pytest.mark.parametrize("seed", range(5))
def test_no_turn_is_lost_whoever_leaves(seed: int) -> None:
    async def test() -> None:
        rng, turns, at_work = random.Random(seed), Turns(3), Counter[str]()

        async def job(client: str) -> None:
            await turns.take(client, alone=False)
            at_work[client] += 1
            assert at_work[client] <= 2
            assert at_work.total() <= 3
            try:
                await asyncio.sleep(rng.random() / 1000)
            finally:
                at_work[client] -= 1
                turns.give(client)

        jobs = [asyncio.create_task(job(rng.choice("abc"))) for _ in range(300)]
        for each in rng.sample(jobs, 100):
            await asyncio.sleep(0)
            each.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert turns.waiting == 0
        for client in "abc":
            await turns.take(client, alone=False)
        assert not turns.is_free("d", alone=False)

    run(test())
