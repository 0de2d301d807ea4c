"""Queue, cancellation, crashes, limits, metrics: what happens when much is asked at once, or something breaks."""

import asyncio
import logging
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from raq_client import connect, connect_async
from raq_proto import convert
from raq_proto.convert import Variant
from raq_proto.errors import Overloaded
from raq_proto.question import ProfileProblem
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_server import RunningServer
from raq_solver.budget import TotalBytes
from raq_solver.constraints import DistinctTypes
from raq_solver.knapsack import Termination
from support.services import alive, general_problem, hard_problem, problem, profile, serving, wait_until

HARD, ALSO_HARD = (
    solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(hard_problem(seed))) for seed in range(2)
)
GENERAL = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(general_problem()))


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving(queue=1, metrics_address="127.0.0.1:0") as server:
        yield server


@pytest.fixture(autouse=True)
def idle(running: RunningServer) -> None:
    """A cancelled call of the test before is counted until its worker has ended: no test begins before."""
    wait_until(lambda: busy(running) == waiting(running) == 0)


@pytest.fixture
def channel(running: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.address) as channel:
        yield channel


def busy(running: RunningServer) -> int:
    return int(running.metrics.busy._value.get())


def waiting(running: RunningServer) -> int:
    return int(running.metrics.waiting._value.get())


def searches(running: RunningServer) -> float:
    """The number of searches that have come to their end."""
    return sum(
        sample.value
        for metric in running.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "raq_solve_seconds_count"
    )


def healthy(channel: grpc.Channel) -> bool:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def test_cancelling_a_call_ends_its_search_in_a_thread(running: RunningServer, channel: grpc.Channel) -> None:
    call = solver_service_pb2_grpc.SolverServiceStub(channel).Solve.future(HARD)
    wait_until(lambda: busy(running) == 1)
    assert not running.pool.process_ids
    time.sleep(0.5)  # into the native search
    before = searches(running)
    call.cancel()
    wait_until(lambda: busy(running) == 0)  # some 20 ms; processors may be busy. Counted when it has ended
    assert searches(running) == before, "it was not searched to its end, which takes half a minute"
    with connect(running.address) as client:
        assert client.solve(problem(seed=1)).ledger is not None


def test_cancelling_a_call_kills_its_process(running: RunningServer, channel: grpc.Channel) -> None:
    call = solver_service_pb2_grpc.SolverServiceStub(channel).Solve.future(GENERAL)
    wait_until(lambda: len(running.pool.process_ids) == 1)
    (searching,) = running.pool.process_ids
    call.cancel()
    wait_until(lambda: not alive(searching))
    with connect(running.address) as client:
        assert client.solve(problem(seed=1)).ledger is not None


def test_a_full_queue_says_when_to_come_again(running: RunningServer, channel: grpc.Channel) -> None:
    stub = solver_service_pb2_grpc.SolverServiceStub(channel)
    calls = [stub.Solve.future(HARD)]
    wait_until(lambda: busy(running) == 1)
    calls.append(stub.Solve.future(ALSO_HARD))
    wait_until(lambda: waiting(running) == 1)
    with connect(running.address) as client, pytest.raises(Overloaded, match="1 calls wait") as caught:
        client.solve(problem(seed=2))
    assert caught.value.retry_seconds > 0
    assert healthy(channel)
    for call in calls:
        call.cancel()
    wait_until(lambda: busy(running) == waiting(running) == 0)


def test_what_was_proven_is_answered_although_all_workers_are_busy(
    running: RunningServer, channel: grpc.Channel
) -> None:
    with connect(running.address) as client:
        first = client.solve(problem(seed=3))
        call = solver_service_pb2_grpc.SolverServiceStub(channel).Solve.future(HARD)
        wait_until(lambda: busy(running) == 1)
        assert client.solve(problem(seed=3)) == first
        call.cancel()


def test_a_process_that_dies_is_an_error_of_one_call(running: RunningServer, channel: grpc.Channel) -> None:
    call = solver_service_pb2_grpc.SolverServiceStub(channel).Solve.future(GENERAL)
    wait_until(lambda: len(running.pool.process_ids) == 1)
    for pid in running.pool.process_ids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "out of memory" in caught.value.details()
    with connect(running.address) as client:
        easy = problem(seed=4)
        assert client.solve(replace(easy, constraints=(DistinctTypes(easy.table.tensors, 2),))).ledger is not None


def test_a_client_that_leaves_while_an_answer_is_written_has_cancelled(
    running: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It reads nothing, so the server comes to wait in a write; then its connection goes."""

    with connect(running.address) as client:
        stored = client.put_profile(profile(tensors=2000))
    variants = [Variant(TotalBytes(stored.weights // 2 + 997 * step)) for step in range(100)]
    request = convert.batch_to_proto(ProfileProblem(stored.digest, TotalBytes(0)), variants)
    cancelled = {"method": "SolveBatch", "code": "CANCELLED"}
    count = lambda: running.metrics.registry.get_sample_value("raq_call_seconds_count", cancelled) or 0.0
    before = count()
    with caplog.at_level(logging.ERROR), grpc.insecure_channel(running.address) as channel:
        unread = solver_service_pb2_grpc.SolverServiceStub(channel).SolveBatch(request)
        first = seen = searches(running)
        wait_until(lambda: searches(running) > first)
        while searches(running) != seen:  # until nothing more is solved, because nothing is read
            seen = searches(running)
            time.sleep(0.3)
        del unread
    wait_until(lambda: count() == before + 1)
    assert not caplog.records


@pytest.mark.slow
def test_the_best_found_comes_before_the_deadline(server_address: str) -> None:
    request = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(hard_problem(5)))
    with grpc.insecure_channel(server_address) as channel:
        answer = solver_service_pb2_grpc.SolverServiceStub(channel).Solve(request, timeout=10)
    outcome = convert.outcome_from_proto(answer.outcome)
    assert outcome.termination is Termination.FEASIBLE
    assert outcome.ledger is not None
    assert outcome.bound is not None
    assert outcome.bound <= outcome.ledger.loss


def test_an_asynchronous_client_cancels_too(server_apart: tuple[str, str]) -> None:
    address, metrics = server_apart

    def workers_busy() -> bool:
        with urllib.request.urlopen(f"http://{metrics}/metrics") as response:
            return b"\nraq_workers_busy 1.0" in response.read()

    async def cancelled() -> None:
        async with connect_async(address) as client:
            asking = asyncio.create_task(client.solve(hard_problem(5)))
            await asyncio.to_thread(wait_until, workers_busy)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(cancelled())
    wait_until(lambda: not workers_busy())


def test_metrics_are_served(running: RunningServer) -> None:
    with connect(running.address) as client:
        client.solve(problem(seed=6))
    with urllib.request.urlopen(f"http://{running.metrics_address}/metrics") as response:
        text = response.read().decode()
    for name in ("raq_call_seconds_count", "raq_queue_waiting", "raq_cache_total", "raq_solve_gap_bucket"):
        assert name in text
    assert 'raq_call_seconds_count{code="OK",method="Solve"}' in text


def test_plain_http_says_whether_it_lives_and_is_ready() -> None:
    with serving(metrics_address="127.0.0.1:0") as own:  # it is stopped here, so it is no server of other tests
        for path in ("live", "ready"):
            with urllib.request.urlopen(f"http://{own.metrics_address}/{path}") as response:
                assert response.read() == b"yes\n"
        own.loop.call_soon_threadsafe(own.stopping.set)
        with pytest.raises(OSError, match=r"503|refused|reset"):  # noqa: PT012
            while True:
                urllib.request.urlopen(f"http://{own.metrics_address}/ready", timeout=60).read()
