"""The service on loopback: latencies, throughput, memory, health under load, cancellation.

Server and clients share the machine's processors, as on a build machine. Prints the table of docs/service.md:
`just bench tests/bench/bench_service.py`.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeVar

import grpc
import numpy as np
import pytest

from raq_client import connect
from raq_proto import convert
from raq_proto.convert import BudgetRange
from raq_proto.question import ProfileProblem
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_solver.budget import BitsPerWeight, TotalBytes
from raq_solver.loss_models import relative
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE
from raq_solver.solve import solve
from raq_solver.tensors import Tensor
from support.machine import header
from support.service_load import (
    PROCESSES,
    SECONDS,
    SPAWN,
    THREADS,
    HealthWatch,
    asked_by_threads,
    resident,
    times,
)
from support.services import general_problem, hard_problem

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

TENSORS, TYPES = 500, 16
LARGE = 20_000
"""Tensors of a profile that is ten times as large as any known model's."""


Question = TypeVar("Question")


def profile(tensors: int = TENSORS) -> Profile:
    """Tensors of a dense model's shapes, 16 types; errors fall by 4 a bit, as quantization's do."""
    random = np.random.default_rng(5)
    types = [t for t in CATALOGUE.values() if 2 < t.bits_per_weight < 9][:TYPES]
    bits = np.array([float(t.bits_per_weight) for t in types])
    shapes = [(int(random.choice([2048, 4096, 8192])), int(random.choice([1024, 4096, 11008]))) for _ in range(tensors)]
    return Profile(
        tuple(Tensor(f"blk.{i // 7}.t{i % 7}.weight", shape, CATALOGUE["F16"]) for i, shape in enumerate(shapes)),
        tuple(types),
        random.lognormal(0, 1, (tensors, 1)) * 0.25**bits * random.uniform(0.8, 1.2, (tensors, TYPES)),
        np.ones(tensors),
        np.full(tensors, np.nan),
        np.full(tensors, np.nan),
    )


@dataclass
class Table:
    """The rows of the table, and the sentences below it."""

    rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, milliseconds: list[float]) -> None:
        """Median, 99th percentile and largest, with the machine's load at this time."""
        cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
        values = (cuts[49], cuts[98], max(milliseconds), os.getloadavg()[0])
        self.rows.append(f"| {name} | " + " | ".join(f"{value:.{0 if value >= 20 else 1}f}" for value in values) + " |")
        print(self.rows[-1])

    def pairs(
        self,
        what: str,
        questions: Sequence[Question],
        here: Callable[[Question], object],
        there: Callable[[Question], object],
    ) -> None:
        """Rows for each question answered in this process and then by the service, so that both meet the same load."""
        both = [(times(lambda _, q=q: here(q), 1)[0], times(lambda _, q=q: there(q), 1)[0]) for q in questions]
        self.add(f"in this process, {what}", [first for first, _ in both])
        self.add(f"not cached, {what}", [second for _, second in both])
        ratio = statistics.median(second for _, second in both) / statistics.median(first for first, _ in both)
        self.notes.append(f"Not cached, {what}: {ratio:.1f} times the call in this process at p50.")

    def watched(self, during: str, health: HealthWatch) -> None:
        """A row for the server's health, and one for what the watcher suffered by itself."""
        self.add(f"health, {during}", health.latencies)
        self.add(f"a sleeping process, {during}", health.late)


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """Printed as a whole at the end."""
    made = Table()
    yield made
    header(
        f"{TENSORS} tensors x {TYPES} types, two searches at a time; milliseconds, and the machine's load (1 minute)"
    )
    print("\n| | p50 | p99 | largest | load |\n|---|---|---|---|---|", *made.rows, "", *made.notes, sep="\n")


@dataclass(frozen=True)
class Server:
    address: str
    metrics: str
    pid: int

    def busy(self) -> int:
        """Searches that run."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics") as response:
            lines = response.read().decode().splitlines()
        return int(float(next(line for line in lines if line.startswith("raq_workers_busy ")).split()[1]))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a process of its own, its log in a file."""
    folder = tmp_path_factory.mktemp("service")
    command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--workers", "2"]
    addresses = ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    environment = {"RAQ_SERVER_CACHE_BYTES": str(8 * 2**20), "PATH": "/usr/bin:/bin"}
    line = [*command, *addresses, "--database", f"sqlite:///{folder}/store.sqlite"]
    with (folder / "log").open("w") as log, subprocess.Popen(line, stderr=log, env=environment) as process:
        while "serving at" not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        said = json.loads((folder / "log").read_text().splitlines()[0])
        yield Server(said["address"], said["metrics"], process.pid)
        process.terminate()


def test_latency_of_one_client(server: Server, table: Table) -> None:
    measured = profile()
    problem = Problem(relative(measured), 0)
    with connect(server.address) as client:
        digest = client.put_profile(measured).digest
        weights = problem.table.total_weights
        inline = replace(problem, capacity_bytes=weights // 2)
        stored = ProfileProblem(digest, TotalBytes(weights // 2 + 1), loss_model="relative")
        assert client.solve(inline).ledger == client.solve(replace(stored, budget=TotalBytes(weights // 2))).ledger
        client.solve(stored)
        table.add("cached, table in the request (98 kB)", times(lambda _: client.solve(inline), 1000))
        table.add("cached, profile by digest", times(lambda _: client.solve(stored), 1000))
        tables = [replace(inline, capacity_bytes=weights // 2 + 997 * i + 5) for i in range(200)]
        digests = [replace(stored, budget=TotalBytes(weights // 2 + 997 * i + 7)) for i in range(200)]
        table.pairs("table in the request", tables, solve, client.solve)
        table.pairs("profile by digest", digests, lambda each: solve(each.problem(lambda _: measured)), client.solve)
        asked = ProfileProblem(digest, TotalBytes(0), loss_model="relative")
        start = time.perf_counter()
        arrivals = [
            1000 * (time.perf_counter() - start)
            for _ in client.sweep(asked, BudgetRange(BitsPerWeight(Fraction(3)), BitsPerWeight(Fraction(7)), 200))
        ]
        table.notes.append(f"A sweep of 200 points: {arrivals[0]:.1f} ms to the first, {arrivals[-1]:.0f} to the last.")


@pytest.mark.parametrize("kind", ["cached", "not cached"])
def test_throughput_of_32_clients(server: Server, table: Table, kind: str) -> None:
    with connect(server.address) as client:
        stored = client.put_profile(profile())
        budget = stored.weights // 2
        client.solve(ProfileProblem(stored.digest, TotalBytes(budget), loss_model="relative"))
    with SPAWN.Pool(PROCESSES) as clients, HealthWatch(server.address) as health:
        arguments = [(server.address, stored.digest, budget, kind == "cached", number) for number in range(PROCESSES)]
        found = clients.starmap(asked_by_threads, arguments)
    latencies = [each for latencies, _ in found for each in latencies]
    failures = [failure for _, failures in found for failure in failures]
    count = f"{len(latencies) / SECONDS:,.0f} solves a second, {len(failures)} errors {failures[:1] or ''}".strip()
    table.notes.append(f"{PROCESSES * THREADS} clients, {kind}: {count}.")
    table.add(f"{PROCESSES * THREADS} clients, {kind}", latencies)
    table.watched("meanwhile", health)


def test_memory_over_10000_calls(server: Server, table: Table) -> None:
    with connect(server.address) as client:
        stored = client.put_profile(profile())
        for thousands in range(11):
            if thousands in {0, 1, 10}:
                table.notes.append(f"Memory of the server's processes after {1000 * thousands:,} calls: "
                                   f"{resident(server.pid):.0f} MiB.")  # fmt: skip
            for index in range(1000 if thousands < 10 else 0):
                budget = stored.weights // 2 + 1000 * (index % 500 if index % 10 else 1000 * thousands + index)
                client.solve(ProfileProblem(stored.digest, TotalBytes(budget), loss_model="relative"))


def cancelled(server: Server, table: Table, hard: Callable[[int], Problem], what: str) -> None:
    """Rows for the time from cancelling a call to the end of its search, and for health meanwhile."""
    took = []
    with grpc.insecure_channel(server.address) as channel, HealthWatch(server.address) as health:
        stub = solver_service_pb2_grpc.SolverServiceStub(channel)
        for seed in range(20):
            call = stub.Solve.future(solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(hard(seed))))
            while server.busy() != 1:
                time.sleep(0.01)
            time.sleep(0.3)  # into the search
            start = time.perf_counter()
            call.cancel()
            while server.busy():  # counted down when the search has ended, or its process
                time.sleep(0.001)
            took.append(1000 * (time.perf_counter() - start))
    table.add(f"cancelling a search in {what}, until it has ended", took)
    table.watched(f"while searches in {what} are cancelled", health)


def test_cancelling_ends_the_search(server: Server, table: Table) -> None:
    cancelled(server, table, hard_problem, "a thread")
    cancelled(server, table, general_problem, "a process")


def test_health_while_large_profiles_come_and_go(server: Server, table: Table) -> None:
    large = profile(LARGE)
    size = len(convert.profile_to_proto(large).SerializeToString()) / 1e6
    with connect(server.address) as client, HealthWatch(server.address) as health:
        for number in range(5):
            stored = client.put_profile(replace(large, provenance={"number": str(number)}))
            assert client.profile(stored.digest).digest() == stored.digest
    table.watched(f"while profiles of {size:.1f} MB are put and got", health)
