"""The service as strangers meet it: health, reflection, limits, faults, a graceful end."""

import logging
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from raq_client.remote import RemoteSolver
from raq_proto.channel import CHANNEL_OPTIONS
from raq_proto.status import REQUEST_ID_KEY
from raq_proto.v1 import problem_pb2, solver_service_pb2, solver_service_pb2_grpc
from raq_server import ServerConfig, servicer, start_server
from raq_server.servicer import limits_of
from raq_solver.errors import InvalidInput, ServiceError, ServiceUnavailable
from raq_solver.knapsack import Limits
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem


def problem(tensors: int = 3, types: int = 2) -> Problem:
    sizes = np.tile(np.arange(1, types + 1, dtype=np.int64) * 10, (tensors, 1))
    losses = 1.0 / sizes
    names = tuple(f"t{i}" for i in range(tensors))
    weights = np.full(tensors, 64, dtype=np.int64)
    return Problem(LossTable(names, tuple(f"Q{i}" for i in range(types)), weights, sizes, losses), 15 * tensors)


def test_health_says_serving(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        for name in ("", "raq.v1.SolverService"):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_service(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=5)
        names = {service.name for service in next(answers).list_services_response.service}
    assert "raq.v1.SolverService" in names


def test_faults_travel_as_bad_request(server_address: str) -> None:
    constraints = [
        problem_pb2.Constraint(tensors=["x"], source=problem_pb2.SOURCE_USER, tie=problem_pb2.Tie()),
        problem_pb2.Constraint(tensors=["t0"], source=problem_pb2.SOURCE_USER, pin=problem_pb2.Pin(quant_type="Q9")),
    ]
    request = solver_service_pb2.SolveRequest(
        problem=problem_pb2.Problem(
            table=problem_pb2.LossTable(tensors=["t0"], quant_types=["Q"], sizes=[1], losses=[0.5], weights=[1]),
            budget=problem_pb2.Budget(capacity_bytes=1),
            constraints=constraints,
        )
    )
    with grpc.insecure_channel(server_address) as channel, pytest.raises(grpc.RpcError) as caught:
        solver_service_pb2_grpc.SolverServiceStub(channel).Solve(
            request, timeout=5, metadata=((REQUEST_ID_KEY, "from-the-client"),)
        )
    failure = caught.value
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(failure.trailing_metadata())[REQUEST_ID_KEY] == "from-the-client"
    details = error_details_pb2.BadRequest()
    status = rpc_status.from_call(failure)
    assert any(packed.Unpack(details) for packed in status.details)
    assert [violation.field for violation in details.field_violations] == ["constraint 1 (Tie)", "constraint 2 (Pin)"]


def test_messages_above_grpcs_own_limit_pass(server_address: str) -> None:
    large = problem(tensors=20_000, types=20)
    with RemoteSolver(server_address) as remote:
        outcome = remote(large, Limits(20.0))
    assert outcome.ledger is not None
    assert len(outcome.ledger.entries) == 20_000


def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        RemoteSolver(address) as remote,
        pytest.raises(ServiceUnavailable, match=f"no raq server answers at {address}"),
    ):
        remote(problem(), Limits(1.0))


def test_a_port_in_use_is_refused(server_address: str) -> None:
    with pytest.raises(InvalidInput, match="can't be bound"):
        start_server(ServerConfig(address=server_address))


def test_half_a_key_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="both"):
        start_server(ServerConfig(address="127.0.0.1:0", certificate=tmp_path / "a.pem"))


def test_a_bug_is_told_by_its_request_id_only(
    server_address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_problem: Problem, _limits: Limits) -> Outcome:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(servicer, "solve", broken)
    with (
        caplog.at_level(logging.ERROR),
        RemoteSolver(server_address) as remote,
        pytest.raises(ServiceError, match=r"INTERNAL.*request [0-9a-f]{32}") as caught,
    ):
        remote(problem(), Limits())
    assert "secret" not in str(caught.value)
    assert "ZeroDivisionError" in caplog.text


def test_the_deadline_less_a_margin_limits_the_search() -> None:
    class Context:
        def __init__(self, remaining: float | None) -> None:
            self.remaining = remaining

        def time_remaining(self) -> float | None:
            return self.remaining

    assert limits_of(0, Context(None)) == Limits(None)  # type: ignore[arg-type]
    assert limits_of(3, Context(None)) == Limits(3)  # type: ignore[arg-type]
    assert limits_of(3, Context(2)) == Limits(1.9)  # type: ignore[arg-type]
    for wrong in (-1.0, float("nan")):
        with pytest.raises(InvalidInput):
            limits_of(wrong, Context(None))  # type: ignore[arg-type]


def test_stopping_lets_running_calls_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = threading.Event()

    def slow(asked: Problem, limits: Limits) -> Outcome:
        entered.set()
        time.sleep(0.3)
        return original(asked, limits)

    original = servicer.solve
    monkeypatch.setattr(servicer, "solve", slow)
    running = start_server(ServerConfig(address="127.0.0.1:0", grace_seconds=5))
    with grpc.insecure_channel(running.address, options=CHANNEL_OPTIONS):
        outcomes: list[Outcome] = []
        with RemoteSolver(running.address) as remote:
            caller = threading.Thread(target=lambda: outcomes.append(remote(problem(), Limits())))
            caller.start()
            assert entered.wait(5)
            running.stop()
            caller.join(5)
    assert outcomes
    assert outcomes[0].ledger is not None


def test_the_command_serves_and_stops_on_sigterm() -> None:
    command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split()[-1]
        with RemoteSolver(address) as remote:
            assert remote(problem(), Limits(5.0)).ledger is not None
        process.terminate()
        assert process.wait(10) == 0
