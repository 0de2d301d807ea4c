"""Equal requests at the same time share a search: all get its answers, and it runs while one of them waits."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from raq_client import connect
from raq_proto import convert
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_server.service.singleflight import Answers, SingleFlight
from raq_server.telemetry.metrics import Metrics
from raq_solver.knapsack import Limits
from support.services import alive, general_problem, hard_problem, problem, serving, wait_until

LATER = time.monotonic() + 10**6
KEY = b"what is asked"
MOST = 1000


class Search:
    """Gives answers of 100 bytes as far as it is let; counts them, and knows whether it was ended."""

    def __init__(self, count: int, failure: Exception | None = None) -> None:
        self.count = count
        self.failure = failure
        self.given = 0
        self.cancelled = False

    async def answers(self) -> Answers:
        try:
            for number in range(self.count):
                await asyncio.sleep(0)
                self.given += 1
                yield bytes([number]) * 100, True
            if self.failure is not None:
                raise self.failure
        except asyncio.CancelledError:
            self.cancelled = True
            raise


class Kept:
    """A single flight, and what the searches that it started were asked to keep."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.flight = SingleFlight(MOST, self.metrics)
        self.answers: dict[bytes, tuple[bytes, ...]] = {}

    def start(self, until: float, answers: Answers) -> AsyncGenerator[bytes, None]:
        return self.flight.start(KEY, until, answers, lambda proven: self.answers.update({KEY: proven}))

    def join(self, until: float, key: bytes = KEY) -> AsyncGenerator[bytes, None] | None:
        return self.flight.join(key, until)


async def taken(answers: AsyncGenerator[bytes, None] | None, count: int | None = None) -> list[int]:
    assert answers is not None
    found: list[int] = []
    async with aclosing(answers) as opened:
        async for answer in opened:
            found.append(answer[0])
            if len(found) == count:
                break
    return found


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 200))


async def settled() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


def test_all_who_join_get_all_answers_of_one_search() -> None:
    async def test() -> None:
        running = Kept()
        search = Search(5)
        first = running.start(LATER, search.answers())
        assert (await anext(first))[0] == 0
        others = [asyncio.create_task(taken(running.join(LATER))) for _ in range(3)]
        assert await taken(first) == [1, 2, 3, 4]
        assert [await other for other in others] == [[0, 1, 2, 3, 4]] * 3
        assert search.given == 5
        assert running.metrics.joined._value.get() == 3
        assert running.join(LATER) is None
        assert len(running.answers.get(KEY) or ()) == 5

    run(test())


def test_the_last_who_leaves_ends_the_search() -> None:
    async def test() -> None:
        running = Kept()
        search = Search(5)
        first = running.start(LATER, search.answers())
        second = running.join(LATER)
        assert second is not None
        await anext(first)
        await anext(second)
        await first.aclose()
        await settled()
        assert not search.cancelled
        assert (await anext(second))[0] == 1
        await second.aclose()
        assert running.join(LATER) is None, "a search that ends can't be joined"
        await running.flight.close()
        assert search.given < 5
        assert running.answers.get(KEY) is None

    run(test())


def test_closing_ends_a_search_that_is_under_way() -> None:
    async def test() -> None:
        running = Kept()
        never = asyncio.Event()

        async def endless() -> Answers:
            await never.wait()
            yield b"", True

        reading = asyncio.create_task(taken(running.start(LATER, endless())))
        await settled()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await running.flight.close()
        assert running.join(LATER) is None

    run(test())


def test_a_failure_reaches_all() -> None:
    async def test() -> None:
        running = Kept()
        search = Search(1, ZeroDivisionError())
        readers = [running.start(LATER, search.answers()), running.join(LATER)]
        for result in await asyncio.gather(*map(taken, readers), return_exceptions=True):
            assert isinstance(result, ZeroDivisionError)
        assert running.answers.get(KEY) is None

    run(test())


def test_nobody_loses_time_by_joining() -> None:
    async def test() -> None:
        running = Kept()
        now = time.monotonic()
        first = running.start(now + 1000, Search(2).answers())
        await anext(first)
        assert running.join(LATER) is None
        assert running.join(now + 999) is None, "it would have to answer before the search ends"
        assert running.join(now + 1200) is None, "it would lose more than a tenth of its time"
        assert running.join(now + 1000, b"something else") is None
        assert await taken(running.join(now + 1050)) == [0, 1]
        assert await taken(first) == [1]

    run(test())


def test_a_slow_reader_bounds_the_search_and_what_was_let_go_can_not_be_joined() -> None:
    async def test() -> None:
        running = Kept()
        search = Search(100)
        slow = running.start(LATER, search.answers())
        await anext(slow)
        quick = asyncio.create_task(taken(running.join(LATER)))
        await settled()
        assert search.given == MOST // 100 + 1
        assert running.join(LATER) is None
        assert await taken(slow) == list(range(1, 100))
        assert await quick == list(range(100))
        assert running.answers.get(KEY) is None

    run(test())


def test_the_search_does_not_run_ahead_of_its_reader() -> None:
    async def test() -> None:
        running = Kept()
        search = Search(5)
        reader = running.start(LATER, search.answers())
        await anext(reader)
        await settled()
        assert search.given == 1
        assert await taken(reader) == [1, 2, 3, 4]

    run(test())


def test_the_same_question_is_solved_once_for_all_who_ask_it_at_the_same_time() -> None:
    with (
        serving(queue=1) as running,
        connect(running.address) as client,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = solver_service_pb2_grpc.SolverServiceStub(channel)
        busy, joined = running.metrics.busy._value, running.metrics.joined._value
        before = stub.Solve.future(solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(hard_problem())))
        wait_until(lambda: busy.get() == 1)
        asked = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(problem(seed=60)))
        calls = [stub.Solve.future(asked) for _ in range(5)]  # only one of them needs the only place in the queue
        wait_until(lambda: joined.get() == 4)
        calls.pop(2).cancel()
        before.cancel()
        answers = [call.result(200) for call in calls]
        assert all(answer == answers[0] for answer in answers)
        assert client.solve(problem(seed=60)).ledger is not None
        assert running.metrics.registry.get_sample_value("raq_solve_seconds_count", {"termination": "OPTIMAL"}) == 1


def test_cancelling_one_call_leaves_the_search_to_the_others() -> None:
    with serving() as running, grpc.insecure_channel(running.address) as channel:
        stub = solver_service_pb2_grpc.SolverServiceStub(channel)
        message = convert.problem_to_proto(general_problem())
        asked = solver_service_pb2.SolveRequest(problem=message, limit_seconds=600)
        first = stub.Solve.future(asked)
        wait_until(lambda: len(running.pool.process_ids) == 1)
        second = stub.Solve.future(asked)
        wait_until(lambda: running.metrics.joined._value.get() == 1)
        (searching,) = running.pool.process_ids
        first.cancel()
        wait_until(lambda: running.metrics.running._value.get() == 1)
        assert running.pool.process_ids == {searching}
        assert alive(searching)
        second.cancel()
        wait_until(lambda: not alive(searching))
        with connect(running.address) as client:
            assert client.solve(problem(seed=61), Limits(30)).ledger is not None
