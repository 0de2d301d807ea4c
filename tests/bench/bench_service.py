"""The service on loopback: latencies, throughput, memory, health under load, cancellation.

Server, its two workers and all clients share the machine's processors, as a build machine's would.
"""

import multiprocessing
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from machine import header

from raq_client import connect
from raq_client.remote import Client
from raq_proto import convert
from raq_proto.asked import ProfileProblem
from raq_proto.convert import BudgetRange
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_solver.budget import BitsPerWeight, TotalBytes
from raq_solver.loss_models import relative
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from services import hard_problem

pytestmark = pytest.mark.bench

TENSORS, TYPES = 500, 16
PROCESSES, THREADS = 4, 8
SECONDS = 8.0


def profile() -> Profile:
    """500 tensors of a dense model's shapes, 16 types; errors fall by 4 a bit, as quantization's do."""
    random = np.random.default_rng(5)
    types = [t for t in CATALOGUE.values() if 2 < t.bits_per_weight < 9][:TYPES]
    bits = np.array([float(t.bits_per_weight) for t in types])
    shapes = [(int(random.choice([2048, 4096, 8192])), int(random.choice([1024, 4096, 11008]))) for _ in range(TENSORS)]
    return Profile(
        tuple(Tensor(f"blk.{i // 7}.t{i % 7}.weight", shape, CATALOGUE["F16"]) for i, shape in enumerate(shapes)),
        tuple(types),
        random.lognormal(0, 1, (TENSORS, 1)) * 0.25**bits * random.uniform(0.8, 1.2, (TENSORS, TYPES)),
        np.ones(TENSORS),
        np.full(TENSORS, np.nan),
        np.full(TENSORS, np.nan),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: address and process number."""
    folder = tmp_path_factory.mktemp("service")
    command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--address", "127.0.0.1:0"]
    settings = ["--workers", "2", "--database", f"sqlite:///{folder}/store.sqlite", "--log-level", "warning"]
    environment = {"RAQ_SERVER_CACHE_BYTES": str(8 * 2**20), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen([*command, *settings], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        yield process.stderr.readline().split()[-1], process.pid
        process.terminate()


def test_latency_of_one_client(server: tuple[str, int]) -> None:
    header(f"one client, {TENSORS} tensors x {TYPES} types; milliseconds")
    measured = profile()
    problem = Problem(relative(measured), 0)
    with connect(server[0]) as client:
        digest = client.put_profile(measured).digest
        weights = problem.table.total_weights
        inline = replace(problem, capacity_bytes=weights // 2)
        stored = ProfileProblem(digest, TotalBytes(weights // 2 + 1), loss_model="relative")
        assert client.solve(inline).ledger == client.solve(replace(stored, budget=TotalBytes(weights // 2))).ledger
        client.solve(stored)
        report("cached, table inline", times(lambda _: client.solve(inline), 1000))
        report("cached, profile by digest", times(lambda _: client.solve(stored), 1000))
        report(
            "not cached, inline",
            times(lambda i: client.solve(replace(inline, capacity_bytes=weights // 2 + 997 * i + 5)), 100),
        )
        report(
            "not cached, by digest",
            times(lambda i: client.solve(replace(stored, budget=TotalBytes(weights // 2 + 997 * i + 7))), 100),
        )
        sweep(client, digest)


def sweep(client: Client, digest: str) -> None:
    asked = ProfileProblem(digest, TotalBytes(0), loss_model="relative")
    start = time.perf_counter()
    arrivals = [
        1000 * (time.perf_counter() - start)
        for _ in client.sweep(asked, BudgetRange(BitsPerWeight(3), BitsPerWeight(7), 200))  # type: ignore[arg-type]
    ]
    print(f"{'sweep of 200 points':28} first {arrivals[0]:.1f}, last {arrivals[-1]:.0f}")


@pytest.mark.parametrize("kind", ["cached", "not cached"])
def test_throughput_of_32_clients(server: tuple[str, int], kind: str) -> None:
    header(f"{PROCESSES * THREADS} clients in {PROCESSES} processes, {kind}, {SECONDS:.0f} s")
    with connect(server[0]) as client:
        stored = client.put_profile(profile())
        budget = stored.weights // 2
        client.solve(ProfileProblem(stored.digest, TotalBytes(budget), loss_model="relative"))
    context = multiprocessing.get_context("spawn")
    with context.Pool(PROCESSES) as clients, HealthWatch(server[0]) as health:
        arguments = [(server[0], stored.digest, budget, kind == "cached", number) for number in range(PROCESSES)]
        found = clients.starmap(asked_by_threads, arguments)
    latencies = [each for latencies, _ in found for each in latencies]
    failures = [failure for _, failures in found for failure in failures]
    print(f"{len(latencies) / SECONDS:.0f} solves/s, {len(failures)} errors {failures[:1]}")
    report("latency", latencies)
    report("health meanwhile", health.latencies)


def asked_by_threads(
    address: str,
    digest: str,
    least: int,
    cached: bool,  # noqa: FBT001
    number: int,
) -> tuple[list[float], list[str]]:
    """Ask from several threads, each with a channel of its own, for a while; latencies in ms, and errors."""
    latencies: list[float] = []
    failures: list[str] = []
    begin = time.perf_counter() + 1.0

    def ask(thread: int) -> None:
        with connect(address) as client:
            budget, step = least, 0
            time.sleep(max(0.0, begin - time.perf_counter()))
            while time.perf_counter() < begin + SECONDS:
                if not cached:
                    step += 1
                    budget = least + (number * THREADS + thread) * 10**6 + 37 * step
                start = time.perf_counter()
                try:
                    client.solve(ProfileProblem(digest, TotalBytes(budget), loss_model="relative"))
                except Exception as error:  # noqa: BLE001  # counted and shown
                    failures.append(repr(error))
                else:
                    latencies.append(1000 * (time.perf_counter() - start))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, failures


def test_memory_over_10000_calls(server: tuple[str, int]) -> None:
    header("memory of the server and its workers, MiB")
    with connect(server[0]) as client:
        stored = client.put_profile(profile())
        for thousands in range(11):
            print(f"after {1000 * thousands:6,} calls: {resident(server[1]):.0f}")
            for index in range(1000 if thousands < 10 else 0):
                budget = stored.weights // 2 + 1000 * (index % 500 if index % 10 else 1000 * thousands + index)
                client.solve(ProfileProblem(stored.digest, TotalBytes(budget), loss_model="relative"))


def test_cancelling_stops_the_search(server: tuple[str, int]) -> None:
    header("from cancelling a call to the end of its process; milliseconds")
    took = []
    with grpc.insecure_channel(server[0]) as channel:
        stub = solver_service_pb2_grpc.SolverServiceStub(channel)
        for seed in range(20):
            request = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(hard_problem(seed)))
            call = stub.Solve.future(request)
            time.sleep(0.6)
            before = running_workers(server[1])
            start = time.perf_counter()
            call.cancel()
            while before <= running_workers(server[1]):
                time.sleep(0.001)
            took.append(1000 * (time.perf_counter() - start))
            time.sleep(0.4)
    report("cancelled", took)


class HealthWatch:
    """Asks for the server's health every 20 ms, in a thread; latencies in ms."""

    def __init__(self, address: str) -> None:
        self.latencies: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(address,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self, address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self._done.wait(0.02):
                self.latencies += times(lambda _: stub.Check(health_pb2.HealthCheckRequest()), 1)


def times(ask: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of each of so many calls."""
    found = []
    for index in range(count):
        start = time.perf_counter()
        ask(index)
        found.append(1000 * (time.perf_counter() - start))
    return found


def report(name: str, milliseconds: list[float]) -> None:
    """Median, 99th percentile and largest."""
    cuts = statistics.quantiles(milliseconds, n=100)
    print(f"{name:28} p50 {cuts[49]:.2f}, p99 {cuts[98]:.2f}, max {max(milliseconds):.1f}, n {len(milliseconds)}")


def children(process: int) -> list[int]:
    """A process and all below it, as far as they have not ended meanwhile."""
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in task.read_text().split():
                found += children(int(child))
    return found


def resident(process: int) -> float:
    """MiB of a process and all below it, shared pages counted in proportion."""
    total = 0
    for each in children(process):
        rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
        total += int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
    return total / 1024


def running_workers(process: int) -> set[int]:
    """The processes below a process that have not ended."""
    found = set()
    for each in children(process)[1:]:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(each)
    return found
