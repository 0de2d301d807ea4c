"""What must not break the service: killed servers, vanished clients, garbage. Bounded, on loopback only."""

import random
import socket
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from raq_client import connect
from raq_proto import convert
from raq_proto.convert import Variant
from raq_proto.question import ProfileProblem
from raq_proto.v1 import profile_service_pb2, solver_service_pb2, solver_service_pb2_grpc
from raq_server.service.solver_service import SERVICE
from raq_solver.budget import TotalBytes
from raq_solver.errors import ServiceError
from raq_solver.knapsack import Limits
from support.killed import Killed, descendants, peak_mebibytes, private_mebibytes
from support.services import alive, general_problem, problem, profile, serving

KILLS = 50
PROFILES = profile_service_pb2.DESCRIPTOR.services_by_name["ProfileService"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


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


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_nothing_is_left_of_a_server_that_is_killed_at_work(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Eight clients at work, kill -9 at any moment: no process remains, and nothing acknowledged is lost."""
    database: Path | str = tmp_path / "s.sqlite" if store == "sqlite" else request.getfixturevalue("postgres").url
    chosen, acknowledged = random.Random(7), {}
    for round_ in range(KILLS):
        server = Killed(database, "--workers", "2")
        threads = [
            threading.Thread(target=_at_work, args=(server.address, 1000 * round_ + 100 * number, acknowledged))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.5 + chosen.random())
        below = descendants(server.process.pid)
        server.kill()
        for thread in threads:
            thread.join()
        deadline = time.monotonic() + 20
        while any(map(alive, below)):
            assert time.monotonic() < deadline, f"round {round_}: {below} are left"
            time.sleep(0.02)
    server = Killed(database)
    with connect(server.address) as client:
        kept = {each.digest for each in client.profiles()}
    server.kill()
    assert len(acknowledged) > KILLS
    assert set(acknowledged) <= kept
    print(f"{store}: {KILLS} kills, {len(acknowledged)} profiles acknowledged, 0 lost, 0 processes left")


def _at_work(address: str, first: int, acknowledged: dict[str, int]) -> None:
    with connect(address) as client:
        for seed in range(first, first + 100):
            try:
                acknowledged[client.put_profile(profile(seed=seed)).digest] = seed
                client.solve(general_problem(seed) if seed % 3 == 0 else problem(seed=seed), Limits(0.2))
            except ServiceError:
                return


def test_10000_malformed_messages_and_half_open_connections(tmp_path: Path) -> None:
    """Of both services, refused in one way; the server's own process stays within 256 MiB, and healthy."""
    chosen = random.Random(1)
    good = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(problem())).SerializeToString()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    server = Killed(tmp_path / "store.sqlite", "--metrics-address", metrics, "--queue", "1000")
    with grpc.insecure_channel(server.address) as channel:
        host, _, port = server.address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(50)]
        for connection in silent[:25]:
            connection.sendall(bytes(chosen.randrange(256) for _ in range(40)))
        slowest, codes = 0.0, set()
        for number in range(10_000):
            place = chosen.randrange(len(good))
            content = good[:place] + chosen.randbytes(chosen.randrange(8)) + good[place + chosen.randrange(8) :]
            service = chosen.choice([SERVICE, PROFILES])
            method = chosen.choice(service.methods).name
            call = channel.unary_stream(f"/{service.full_name}/{method}")
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
        most = peak_mebibytes(server.process.pid)
        print(f"slowest health answer {1000 * slowest:.1f} ms, codes {codes}, at most {most:.0f} MiB")
        assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        assert most <= 256
        with urllib.request.urlopen(f"http://{metrics}/metrics") as page:
            assert b"\nraq_worker_restarts_total 0.0" in page.read()
        solver_service_pb2_grpc.SolverServiceStub(channel).Solve(
            solver_service_pb2.SolveRequest.FromString(good), timeout=10
        )
    server.kill()


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
