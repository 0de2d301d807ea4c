"""What must not break the service: killed servers, vanished clients, garbage. Bounded, on loopback only."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from raq_client import connect
from raq_proto import convert
from raq_proto.convert import Variant
from raq_proto.question import ProfileProblem
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_server.service.solver_service import SERVICE
from raq_solver.budget import TotalBytes
from raq_solver.errors import ServiceError
from support.services import problem, profile, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Killed:
    """A server in a process of its own, to be killed."""

    def __init__(self, database: Path, **environment: str) -> None:
        command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--address", "127.0.0.1:0"]
        settings = ["--workers", "1", "--log-level", "warning", "--database", f"sqlite:///{database}"]
        self.process = subprocess.Popen(
            [*command, *settings], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        assert self.process.stderr is not None
        self.address = self.process.stderr.readline().split()[-1]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def test_every_acknowledged_profile_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    for round_ in range(20):
        server = Killed(tmp_path / "store.sqlite")
        stop = threading.Event()

        def put(first: int, address: str, stopped: threading.Event) -> None:
            with connect(address) as client:
                for seed in range(first, first + 10_000):
                    try:
                        digest = client.put_profile(profile(seed=seed)).digest
                    except ServiceError:
                        return
                    acknowledged[digest] = seed
                    if stopped.is_set():
                        return

        threads = [
            threading.Thread(target=put, args=(round_ * 100_000 + 20_000 * index, server.address, stop))
            for index in range(3)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3 + random.random() * 0.3)
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()
    with serving(database=f"sqlite:///{tmp_path}/store.sqlite") as running, connect(running.address) as client:
        kept = {each.digest for each in client.profiles()}
        assert len(acknowledged) > 20
        assert set(acknowledged) <= kept
        for digest, seed in random.sample(sorted(acknowledged.items()), 20):
            assert client.profile(digest).digest() == digest == profile(seed=seed).digest()


def test_workers_end_with_a_server_that_was_killed(tmp_path: Path) -> None:
    server = Killed(tmp_path / "store.sqlite")
    with connect(server.address) as client:
        assert client.solve(problem()).ledger is not None
    below = descendants(server.process.pid)
    assert below
    server.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in below):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def descendants(process: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | descendants(child)
    return found


def test_10000_malformed_messages_and_half_open_connections() -> None:
    chosen = random.Random(1)
    good = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(problem())).SerializeToString()
    with serving(calls_per_client=1000, queue=1000) as running, grpc.insecure_channel(running.address) as channel:
        host, _, port = running.address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(50)]
        for connection in silent[:25]:
            connection.sendall(bytes(chosen.randrange(256) for _ in range(40)))
        slowest, codes = 0.0, set()
        for number in range(10_000):
            place = chosen.randrange(len(good))
            content = good[:place] + chosen.randbytes(chosen.randrange(8)) + good[place + chosen.randrange(8) :]
            method = chosen.choice(SERVICE.methods).name
            call = channel.unary_stream(f"/{SERVICE.full_name}/{method}")
            try:
                list(call(content, timeout=20))
            except grpc.RpcError as error:
                codes.add(error.code())
            if number % 100 == 0:
                start = time.monotonic()
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                slowest = max(slowest, time.monotonic() - start)
        for connection in silent:
            connection.close()
        print(f"slowest health answer {1000 * slowest:.1f} ms, codes {codes}")
        assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
        assert running.metrics.registry.get_sample_value("raq_worker_restarts_total") == 0
        solver_service_pb2_grpc.SolverServiceStub(channel).Solve(
            solver_service_pb2.SolveRequest.FromString(good), timeout=10
        )


def test_10000_calls_leave_no_memory_and_no_files_behind(tmp_path: Path) -> None:
    server = Killed(tmp_path / "store.sqlite", RAQ_SERVER_CACHE_BYTES=str(2**20))
    used: list[tuple[float, int]] = []
    with connect(server.address) as client:
        stored = client.put_profile(profile(tensors=200))
        for thousand in range(12):
            for number in range(1000):  # every tenth question is new, so that the store grows as well
                asked = 1000 * thousand + number if number % 10 == 0 else number
                client.solve(ProfileProblem(stored.digest, TotalBytes(stored.weights // 2 + 8 * asked)))
            processes = {server.process.pid, *descendants(server.process.pid)}
            files = sum(len(list(Path(f"/proc/{process}/fd").iterdir())) for process in processes)
            used.append((sum(map(private_mebibytes, processes)), files))
    server.kill()
    print(used)
    assert used[-1][0] < used[1][0] + 10
    assert used[-1][1] <= used[1][1] + 5


def private_mebibytes(process: int) -> float:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    lines = [line for line in rollup.splitlines() if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(int(line.split()[1]) for line in lines) / 1024


def test_a_client_that_reads_nothing_loses_its_worker() -> None:
    with serving(idle_seconds=0.5) as running, connect(running.address) as client:
        stored = client.put_profile(profile(tensors=5000))
        asked = ProfileProblem(stored.digest, TotalBytes(0))
        variants = [Variant(TotalBytes(stored.weights // 2 + 997 * step)) for step in range(300)]
        with grpc.insecure_channel(running.address) as channel:
            unread = solver_service_pb2_grpc.SolverServiceStub(channel).SolveBatch(
                convert.batch_to_proto(asked, variants)
            )
            assert client.solve(problem(seed=50)).ledger is not None
            with pytest.raises(grpc.RpcError) as caught:
                list(unread)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
