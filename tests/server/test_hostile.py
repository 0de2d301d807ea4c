"""Clients that mean no good, and stores that fail: bounded, refused in one sentence, and nobody else notices."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from raq_client import connect
from raq_proto import convert
from raq_proto.errors import StoreFull
from raq_proto.question import StoredProfile
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_server import RunningServer, ServerConfig, start_server
from raq_server.config import Scope, TokenEntry
from raq_server.service.tokens import hash_of, new_token
from raq_server.store.database import Database, engine_of
from raq_server.store.migrations import migrate
from raq_server.telemetry import http
from raq_solver.errors import InvalidInput, ServiceUnavailable
from raq_solver.knapsack import Termination
from support.killed import Killed, private_mebibytes
from support.services import Certificates, hard_problem, many_sides, problem, profile, serving, wait_until

pytestmark = pytest.mark.slow  # deadlines of seconds, which a loaded machine does not keep

SOLVE = "/raq.v1.SolverService/Solve"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    with serving(tokens=[TokenEntry(name="me", sha256=hash_of(new_token()), scope=Scope.SOLVE)]) as running:
        yield running


def endless(enough: threading.Event) -> Iterator[bytes]:
    """A request that never comes."""
    enough.wait(60)
    yield b""


def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        list(call)
    return refused.value.code()


@pytest.mark.parametrize("method", ["Solve", "Sweep", "Verify"])
def test_a_caller_is_refused_before_its_message_is_read(guarded: RunningServer, method: str) -> None:
    enough = threading.Event()
    with grpc.insecure_channel(guarded.address) as channel:
        call = channel.stream_stream(f"/raq.v1.SolverService/{method}")(endless(enough), timeout=20)
        assert code_of(call) is grpc.StatusCode.UNAUTHENTICATED
    enough.set()


@pytest.mark.parametrize("method", [SOLVE, "/raq.v1.ProfileService/Put", HEALTH, REFLECTION])
def test_a_request_that_never_comes_ends(method: str) -> None:
    enough = threading.Event()
    with serving(request_seconds=0.3) as running, grpc.insecure_channel(running.address) as channel:
        began = time.monotonic()
        calls = [channel.stream_stream(method)(endless(enough), timeout=30) for _ in range(20)]
        # Calls that wait for a place have the same time; of one peer 64 are taken.
        assert {code_of(call) for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert time.monotonic() - began < 20
        with connect(running.address) as client:
            assert client.solve(problem()).ledger is not None
    enough.set()


@pytest.mark.parametrize("method", ["Put", "Get", "List", "Delete"])
def test_garbage_is_refused_by_both_services_in_the_same_way(guarded: RunningServer, method: str) -> None:
    name = f"/raq.v1.ProfileService/{method}"
    with grpc.insecure_channel(guarded.address) as channel:
        assert code_of(channel.unary_stream(name)(b"\xff", timeout=20)) is grpc.StatusCode.UNAUTHENTICATED
    with serving() as running, grpc.insecure_channel(running.address) as channel:
        assert code_of(channel.unary_stream(name)(b"\xff", timeout=20)) is grpc.StatusCode.INVALID_ARGUMENT
        labels = {"method": method, "code": "INVALID_ARGUMENT"}
        # Counted after the answer has left.
        wait_until(lambda: bool(running.metrics.registry.get_sample_value("raq_call_seconds_count", labels)))


def test_compressed_messages_are_refused(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        bomb = bytes(32 * 2**20)
        for method in (SOLVE, HEALTH):
            call = channel.unary_stream(method)(bomb, timeout=20, compression=grpc.Compression.Gzip)
            assert code_of(call) is grpc.StatusCode.UNIMPLEMENTED


def test_a_full_store_takes_no_more_and_solving_goes_on() -> None:
    with serving(store_limit_bytes=3_000) as running, connect(running.address) as client:
        with pytest.raises(StoreFull, match=r"the store holds .* of at most 3,000 bytes; its operator"):  # noqa: PT012  # it is refused at some seed
            for seed in range(100):
                client.put_profile(profile(seed=seed))
        stored = list(client.profiles())
        assert 0 < sum(each.size_bytes for each in stored) <= 3_000
        assert client.solve(problem()).ledger is not None
        assert client.profile(stored[0].digest).digest() == stored[0].digest


def profile_health(running: RunningServer) -> int:
    with grpc.insecure_channel(running.address) as channel:
        asked = health_pb2.HealthCheckRequest(service="raq.v1.ProfileService")
        return int(health_pb2_grpc.HealthStub(channel).Check(asked, timeout=10).status)


def test_a_store_that_was_removed_acknowledges_nothing(tmp_path: Path) -> None:
    states = health_pb2.HealthCheckResponse
    with serving(database=f"sqlite:///{tmp_path}/s.sqlite") as running, connect(running.address) as client:
        client.put_profile(profile())
        assert profile_health(running) == states.SERVING
        for file in tmp_path.glob("s.sqlite*"):
            file.unlink()
        with pytest.raises(ServiceUnavailable, match="was removed or replaced"):
            client.put_profile(profile(seed=1))
        wait_until(lambda: profile_health(running) == states.NOT_SERVING, 20)
        assert client.solve(problem()).ledger is not None


def _stored(seed: int) -> tuple[StoredProfile, bytes]:
    from raq_proto.convert import profile_to_proto
    from raq_server.workers.profiles import described

    content = profile_to_proto(profile(tensors=500, seed=seed)).SerializeToString()
    return described(profile(tensors=500, seed=seed), len(content)), content


def test_a_full_disk_is_told_apart_from_a_store_that_does_not_answer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.sqlite"
    engine = engine_of(url)
    migrate(engine)
    engine.dispose()  # the limit is one of a connection
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=40").close())
    database = Database(engine)
    with pytest.raises(StoreFull, match="the disk of the server's store is full"):  # noqa: PT012
        for seed in range(20):
            database.put_profile(*_stored(seed))
    database.close()


def test_the_metrics_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_SECONDS", 0.5)
    with serving(metrics_address="127.0.0.1:0") as running:
        assert running.metrics_address is not None
        host, _, port = running.metrics_address.rpartition(":")
        before = threading.active_count()
        silent = [socket.create_connection((host, int(port))) for _ in range(100)]
        time.sleep(0.2)
        assert threading.active_count() <= before + http.MOST_CONNECTIONS
        for connection in silent[:10]:
            connection.sendall(b"GET /metr")
        wait_until(lambda: threading.active_count() <= before, 20)
        with urllib.request.urlopen(f"http://{running.metrics_address}/metrics", timeout=10) as page:
            assert b"raq_calls_running" in page.read()
        for connection in silent:
            connection.close()


def test_a_search_ends_by_the_limit_of_the_server() -> None:
    with serving(search_seconds=0.5) as running, connect(running.address) as client:
        began = time.monotonic()
        outcome = client.solve(hard_problem())
        assert time.monotonic() - began < 20
        assert outcome.termination in {Termination.FEASIBLE, Termination.OPTIMAL}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["distinct", "rising"])
def test_deadlines_hold_with_hundreds_of_side_constraints(kind: str) -> None:
    """The best found comes with its bound before the call's deadline."""
    asked = solver_service_pb2.SolveRequest(problem=convert.problem_to_proto(many_sides(kind)))
    with serving() as running, grpc.insecure_channel(running.address) as channel:
        began = time.monotonic()
        answer = solver_service_pb2_grpc.SolverServiceStub(channel).Solve(asked, timeout=25)
        took = time.monotonic() - began
    outcome = convert.outcome_from_proto(answer.outcome)
    print(f"{kind}: {outcome.termination.name} after {took:.1f} of 25 s, gap {outcome.gap}")
    assert outcome.termination in {Termination.FEASIBLE, Termination.OPTIMAL}  # a quick machine proves the rising one
    assert outcome.ledger is not None
    assert outcome.bound is not None
    assert outcome.bound <= outcome.ledger.loss


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"address": "127.0.0.1:99999"}, "127.0.0.1:99999: is not HOST:PORT with a port from 0 to 65535"),
        ({"address": "127.0.0.1:http"}, "is not HOST:PORT"),
        ({"address": "localhost"}, "is not HOST:PORT"),
        ({"database": "postgresql://localhost:notaport/raq"}, "database: is not a URL such as"),
    ],
)
def test_wrong_settings_are_one_true_sentence(settings: dict[str, str], sentence: str, tmp_path: Path) -> None:
    given = {"address": "127.0.0.1:0", "database": f"sqlite:///{tmp_path}/s.sqlite", **settings}
    with pytest.raises(InvalidInput) as refused:
        start_server(ServerConfig.model_validate(given))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_key_of_another_certificate_is_named(certificates: Certificates, tmp_path: Path) -> None:
    given = {
        "address": "127.0.0.1:0",
        "database": f"sqlite:///{tmp_path}/s.sqlite",
        "certificate": certificates.server,
        "private_key": certificates.client_key,
    }
    with pytest.raises(InvalidInput, match=r"TLS: .* are no certificate and its private key"):
        start_server(ServerConfig.model_validate(given))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("send", ["stream", "unary"])
def test_many_large_requests_that_stall_are_held_within_the_limit(send: str, tmp_path: Path) -> None:
    """24 streams of 55 of 60 MB, then nothing: before, 1,365 MiB were held."""
    server = Killed(tmp_path / "store.sqlite")
    before = private_mebibytes(server.process.pid)
    enough = threading.Event()
    method = "/raq.v1.ProfileService/Put" if send == "stream" else SOLVE

    def parts() -> Iterator[bytes]:
        chunk = b"\x12" + _varint(4 * 2**20) + bytes(4 * 2**20)  # PutRequest.chunk
        for _ in range(14):
            yield chunk
        enough.wait(120)

    def call() -> None:
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            list(channel.stream_stream(method)(parts(), timeout=60))

    threads = [threading.Thread(target=call) for _ in range(24)]
    for thread in threads:
        thread.start()
    most = 0.0
    for _ in range(100):
        most = max(most, private_mebibytes(server.process.pid) - before)
        time.sleep(0.1)
    enough.set()
    server.kill()
    for thread in threads:
        thread.join()
    print(f"{send}: {most:.0f} MiB above {before:.0f}")
    assert most < 400


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [15, 56])
@pytest.mark.parametrize("method", [SOLVE, "/raq.v1.ProfileService/Put", HEALTH, REFLECTION])
def test_clients_without_a_token_are_held_within_64_mebibytes(method: str, size: int, tmp_path: Path) -> None:
    """24 streams of a message that is as large as allowed, or larger, and no end, from clients that have no token."""
    tokens = json.dumps([{"name": "me", "sha256": hash_of(new_token())}])
    server = Killed(tmp_path / "store.sqlite", RAQ_SERVER_TOKENS=tokens)
    before = private_mebibytes(server.process.pid)
    enough = threading.Event()

    def call() -> None:
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            list(channel.stream_stream(method)(_stalling(enough, size), timeout=60))

    threads = [threading.Thread(target=call) for _ in range(24)]
    for thread in threads:
        thread.start()
    most, slowest = 0.0, 0.0
    for _ in range(100):
        most = max(most, private_mebibytes(server.process.pid) - before)
        time.sleep(0.1)
    with grpc.insecure_channel(server.address) as channel:
        began = time.monotonic()
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        slowest = time.monotonic() - began
    enough.set()
    server.kill()
    for thread in threads:
        thread.join()
    print(f"{method}, {size} MiB: {most:.0f} MiB above {before:.0f}, then health within {1000 * slowest:.0f} ms")
    assert most <= 64


def _stalling(enough: threading.Event, mebibytes: int) -> Iterator[bytes]:
    """A message that is whole, of a request that does not end."""
    yield b"\x12" + _varint(mebibytes * 2**20) + bytes(mebibytes * 2**20)
    enough.wait(120)


def _varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + _varint(high) if high else bytes([low])
