"""The pool by itself: threads and processes, turns, cancellation; nothing is left over when it closes."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from raq_proto import convert
from raq_proto.errors import Overloaded
from raq_proto.v1 import outcome_pb2, solver_service_pb2
from raq_server.limits import RequestLimits
from raq_server.service.solver_service import SERVICE
from raq_server.store.database import Database, engine_of
from raq_server.telemetry.metrics import Metrics
from raq_server.workers import process
from raq_server.workers.handlers import Answer
from raq_server.workers.job import Job, ProfileCache
from raq_server.workers.pool import Pool
from raq_solver.errors import BackendFailure, InvalidInput
from raq_solver.problem import Problem
from support.services import alive, general_problem, hard_problem, problem, wait_until

LIMITS = RequestLimits(tensors=10_000, types=100, constraints=100, budgets=100)


class Jobs:
    """Jobs whose profiles are those of one store, and the metrics that count them."""

    def __init__(self, database: Database) -> None:
        self.metrics = Metrics()
        self._profiles = ProfileCache(database)

    def __call__(self, asked: Problem, method: str = "Solve", limits: RequestLimits = LIMITS, **more: Any) -> Job:
        message = solver_service_pb2.SweepRequest if method == "Sweep" else solver_service_pb2.SolveRequest
        request = message(problem=convert.problem_to_proto(asked), **more).SerializeToString()
        return Job(SERVICE.methods_by_name[method], request, None, limits, self._profiles, self.metrics)


async def first(pool: Pool, asked: Job) -> Answer:
    async with aclosing(pool.answers(asked)) as answers:
        return await anext(answers)


def run(test: Callable[[Pool, Jobs], Coroutine[Any, Any, None]], workers: int = 1, queue: int = 0) -> None:
    async def opened(jobs: Jobs) -> None:
        pool = Pool(workers, queue, jobs.metrics)
        await pool.open()
        async with asyncio.timeout(200):
            await test(pool, jobs)
        await pool.close()

    with closing(Database(engine_of("sqlite:///:memory:"))) as database:
        asyncio.run(opened(Jobs(database)))


def open_files() -> dict[str, str]:
    """The files and sockets that this process holds."""
    found = {}
    for file in Path("/proc/self/fd").iterdir():
        try:
            found[file.name] = str(file.readlink())
        except FileNotFoundError:  # the folder itself
            continue
    return found


async def until(reached: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, reached)


@pytest.mark.parametrize("hard", [hard_problem, general_problem])
def test_a_cancelled_job_gives_its_turn_to_the_next(hard: Callable[[int], Problem]) -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        solving = asyncio.create_task(first(pool, jobs(hard(0))))
        await until(lambda: jobs.metrics.busy._value.get() == 1)
        await until(lambda: len(pool.process_ids) == (hard is general_problem))
        await asyncio.sleep(0.5)  # into the search
        pids = pool.process_ids
        waiting = asyncio.create_task(first(pool, jobs(problem())))
        await until(lambda: jobs.metrics.waiting._value.get() == 1)
        solving.cancel()
        assert (await waiting).proven
        assert not pool.process_ids
        await until(lambda: not any(map(alive, pids)))

    run(test, queue=1)


def test_a_job_beyond_the_queue_is_refused() -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        solving = asyncio.create_task(first(pool, jobs(hard_problem())))
        await until(lambda: jobs.metrics.busy._value.get() == 1)
        with pytest.raises(Overloaded) as caught:
            await first(pool, jobs(problem()))
        assert caught.value.retry_seconds > 0
        solving.cancel()
        await until(lambda: jobs.metrics.busy._value.get() == 0)
        assert (await first(pool, jobs(problem()))).proven

    run(test)


@pytest.mark.parametrize("large", [False, True])
def test_a_thread_and_a_process_give_the_same_answers(monkeypatch: pytest.MonkeyPatch, *, large: bool) -> None:
    if large:
        monkeypatch.setattr("raq_server.workers.pool.LARGE", 0)

    async def test(pool: Pool, jobs: Jobs) -> None:
        asked = jobs(problem(), "Sweep", budgets=[{"capacity_bytes": size} for size in (30, 40, 60)])
        async with aclosing(pool.answers(asked)) as answers:
            contents = [answer.content async for answer in answers]
        found = [solver_service_pb2.SweepResponse.FromString(content).point for content in contents]
        assert [point.capacity_bytes for point in found] == [30, 40, 60]
        assert all(point.termination == outcome_pb2.TERMINATION_OPTIMAL for point in found)
        assert [point.size for point in found] == [30, 40, 60]
        assert (asked.process_id is not None) == large
        small = RequestLimits(tensors=1, types=1, constraints=1, budgets=1)
        with pytest.raises((InvalidInput, process.StatusError), match="3 are given; this server takes at most 1"):
            await first(pool, jobs(problem(), limits=small))

    run(test)


def test_leaving_a_stream_half_read_ends_its_process() -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        asked = jobs(general_problem(), "Sweep", budgets=[{"capacity_bytes": size} for size in (1, 10**12)])
        await first(pool, asked)  # infeasible: at once
        pid = asked.process_id
        assert pid is not None
        await until(lambda: not alive(pid))
        await until(lambda: jobs.metrics.busy._value.get() == 0)

    run(test)


def test_large_requests_reach_a_process_whole() -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        with pytest.raises(process.StatusError, match="20,000 are given; this server takes at most 10,000"):
            await first(pool, jobs(problem(tensors=20_000, types=20)))

    run(test)


def test_the_template_is_started_again_when_it_was_killed() -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        template = process._TEMPLATE._process
        assert template is not None
        template.kill()
        template.wait()
        limits = RequestLimits(tensors=1, types=1, constraints=1, budgets=1)
        with pytest.raises(process.StatusError):
            await first(pool, jobs(general_problem(), limits=limits))
        assert process._TEMPLATE._process is not template

    run(test)


def test_a_template_that_can_not_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    async def test(pool: Pool, jobs: Jobs) -> None:
        template = process._TEMPLATE._process
        assert template is not None
        template.kill()
        template.wait()
        with monkeypatch.context() as patched:
            patched.setattr("raq_server.workers.template.subprocess.Popen", refused)
            for _ in range(2):
                with pytest.raises(BackendFailure, match="Cannot allocate memory"):
                    await first(pool, jobs(general_problem()))
        limits = RequestLimits(tensors=1, types=1, constraints=1, budgets=1)
        with pytest.raises(process.StatusError):
            await first(pool, jobs(general_problem(), limits=limits))

    run(test, queue=1)


def test_a_process_that_can_not_be_started_is_a_failure_of_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    async def test(pool: Pool, jobs: Jobs) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(process._TEMPLATE, "fork", refused)
            with pytest.raises(BackendFailure, match="temporarily unavailable"):
                await first(pool, jobs(general_problem()))
        assert (await first(pool, jobs(problem()))).proven

    run(test, queue=1)


@pytest.mark.parametrize("pause", [0, 0.001, 0.01, 0.1])
@pytest.mark.parametrize("hard", [hard_problem, general_problem])
def test_closing_leaves_nothing_open(hard: Callable[[int], Problem], pause: float) -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        solving = [asyncio.create_task(first(pool, jobs(hard(seed)))) for seed in range(2)]
        await asyncio.sleep(pause)
        for task in solving:
            task.cancel()
        await asyncio.gather(*solving, return_exceptions=True)

    run(test, workers=2)  # the first starts the template, which stays
    gc.collect()
    before = open_files()
    run(test, workers=2)
    gc.collect()
    assert open_files() == before


def test_closing_ends_what_runs() -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        solving = [asyncio.create_task(first(pool, jobs(hard(0)))) for hard in (hard_problem, general_problem)]
        await until(lambda: jobs.metrics.busy._value.get() == 2)
        await pool.close()
        ends = await asyncio.gather(*solving, return_exceptions=True)
        assert all(isinstance(end, BaseException) for end in ends), "none was searched to its end"

    run(test, workers=2)


def test_the_answers_of_a_pool_are_those_of_the_solver() -> None:
    async def test(pool: Pool, jobs: Jobs) -> None:
        from raq_solver.solve import solve

        for seed in range(3):
            answer = await first(pool, jobs(problem(seed=seed)))
            found = convert.outcome_from_proto(solver_service_pb2.SolveResponse.FromString(answer.content).outcome)
            assert found.ledger == solve(problem(seed=seed)).ledger

    run(test)
