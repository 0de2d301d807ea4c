"""The service as strangers meet it: health, reflection, faults, bugs, the log, a graceful end."""

import fcntl
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from raq_client import connect
from raq_proto import convert
from raq_proto.status import REQUEST_ID_KEY, error_of
from raq_proto.v1 import outcome_pb2, problem_pb2, solver_service_pb2, solver_service_pb2_grpc
from raq_server import ServerConfig, start_server
from raq_server.limits import RequestLimits
from raq_server.service.solver_service import search_seconds
from raq_server.store.async_store import AsyncStore
from raq_server.telemetry.log import LOG, JsonLines, TextLines
from raq_server.workers import handlers
from raq_server.workers.handlers import limits_of
from raq_solver.errors import InvalidInput, ServiceError, ServiceUnavailable
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.solve import solve
from support.services import hard_problem, problem, serving, wait_until


def test_health_says_serving(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        for name in ("", "raq.v1.SolverService", "raq.v1.ProfileService"):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(server_address: str) -> None:
    with grpc.insecure_channel(server_address) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=60)
        names = {service.name for service in next(answers).list_services_response.service}
    assert names >= {"raq.v1.SolverService", "raq.v1.ProfileService", "grpc.health.v1.Health"}


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
            request, timeout=60, metadata=((REQUEST_ID_KEY, "from-the-client"),)
        )
    failure = caught.value
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(failure.trailing_metadata())[REQUEST_ID_KEY] == "from-the-client"
    details = error_details_pb2.BadRequest()
    status = rpc_status.from_call(failure)
    assert any(packed.Unpack(details) for packed in status.details)
    assert [violation.field for violation in details.field_violations] == ["constraint 1 (Tie)", "constraint 2 (Pin)"]


def test_very_many_faults_still_reach_the_client(server_address: str) -> None:
    constraint = problem_pb2.Constraint(tensors=["no such tensor"], source=problem_pb2.SOURCE_USER, tie={})
    table = problem_pb2.LossTable(tensors=["t0"], quant_types=["Q"], sizes=[1], losses=[0.5], weights=[1])
    asked = problem_pb2.Problem(table=table, budget={"capacity_bytes": 1}, constraints=[constraint] * 5000)
    with grpc.insecure_channel(server_address) as channel, pytest.raises(grpc.RpcError) as caught:
        solver_service_pb2_grpc.SolverServiceStub(channel).Solve(solver_service_pb2.SolveRequest(problem=asked))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = error_details_pb2.BadRequest()
    assert any(packed.Unpack(details) for packed in rpc_status.from_call(caught.value).details)
    assert len(details.field_violations) > 10
    assert details.field_violations[-1].description == f"and {5001 - len(details.field_violations)} more"


@pytest.mark.parametrize("letter", ["x", "%", "é", "中", "😀"])
def test_long_names_in_any_script_still_reach_the_client(server_address: str, letter: str) -> None:
    name = letter * 3000
    table = problem_pb2.LossTable(
        tensors=[name, name], quant_types=["Q"], sizes=[1] * 2, losses=[1] * 2, weights=[1] * 2
    )
    request = solver_service_pb2.SolveRequest(problem=problem_pb2.Problem(table=table, budget={"capacity_bytes": 1}))
    with grpc.insecure_channel(server_address) as channel, pytest.raises(grpc.RpcError) as caught:
        solver_service_pb2_grpc.SolverServiceStub(channel).Solve(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (fault,) = error_of(caught.value, server_address).faults
    assert fault.where == name[: len(fault.where)]
    assert fault.what == "tensor listed 2 times"


def test_messages_above_grpcs_own_limit_pass(server_address: str) -> None:
    with connect(server_address) as client:
        outcome = client.solve(problem(tensors=20_000, types=20), Limits(20.0))
    assert outcome.ledger is not None
    assert len(outcome.ledger.entries) == 20_000


def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with connect(address) as client, pytest.raises(ServiceUnavailable, match=f"no raq server answers at {address}"):
        client.solve(problem(), Limits(1.0))


def test_a_port_in_use_is_refused(server_address: str) -> None:
    with pytest.raises(InvalidInput, match="can't be bound"), serving(address=server_address):
        pass


def test_a_unix_socket_that_is_served_is_refused_and_one_that_was_left_is_taken(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/raq.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/raq.sock")
    with serving(address=address), connect(address) as client:
        with pytest.raises(InvalidInput, match="another server answers there"), serving(address=address):
            pass
        assert client.solve(problem()).ledger is not None


def test_a_bug_is_told_by_its_request_id_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_self: AsyncStore, _key: bytes) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(AsyncStore, "answers", broken)
    with (
        caplog.at_level(logging.ERROR),
        serving() as running,
        connect(running.address) as client,
        pytest.raises(ServiceError, match=r"INTERNAL.*\[request [0-9a-f]{32}\]") as caught,
    ):
        client.solve(problem())
    assert "secret" not in str(caught.value)
    assert "ZeroDivisionError" in caplog.text


class Desk:
    """What a handler is given, as far as limits matter."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.limits = RequestLimits(tensors=1, types=1, constraints=1, budgets=1)

    def profile(self, digest: str) -> Profile:
        raise AssertionError(digest)

    def observe(self, termination: str, seconds: float, gap: float | None) -> None:
        raise AssertionError(termination)

    def check(self) -> None:
        return


def test_the_deadline_limits_the_search() -> None:
    endless = Desk(None)
    assert limits_of(0, endless) == Limits(None)
    assert limits_of(3, endless) == Limits(3)
    assert limits_of(3, endless).check == endless.check
    deadline = time.monotonic() + 1000
    assert limits_of(2000, Desk(deadline)) == Limits(2000, deadline=deadline)
    assert [search_seconds(left) for left in (0.0, 1.0, 4.0, 100.0)] == [0.0, 0.5, 3.0, 95.0]
    for wrong in (-1.0, float("nan")):
        with pytest.raises(InvalidInput):
            limits_of(wrong, endless)


def test_a_calls_deadline_is_of_all_its_searches_together(server_address: str) -> None:
    hard = hard_problem(2)
    asked = convert.problem_to_proto(hard)
    budgets = [problem_pb2.Budget(capacity_bytes=hard.capacity_bytes + step) for step in range(4)]
    tensor = hard.table.tensors[0]
    with grpc.insecure_channel(server_address) as channel:
        stub = solver_service_pb2_grpc.SolverServiceStub(channel)
        points = list(stub.Sweep(solver_service_pb2.SweepRequest(problem=asked, budgets=budgets), timeout=8))
        explained = stub.ExplainTensor(solver_service_pb2.ExplainTensorRequest(problem=asked, tensor=tensor), timeout=8)
    assert [answer.point.termination for answer in points] == [outcome_pb2.TERMINATION_FEASIBLE] * 4
    assert len(explained.reasons.alternatives) == 11


def test_a_stopped_search_answers_its_best_with_a_bound(server_address: str) -> None:
    with connect(server_address) as client:
        outcome = client.solve(hard_problem(1), Limits(0.2))
    assert outcome.ledger is not None
    assert outcome.bound is not None
    assert outcome.bound <= outcome.ledger.loss
    assert outcome.gap is not None
    assert outcome.gap > 0


def test_stopping_lets_running_calls_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Outcome] = []
    begun, go_on = threading.Event(), threading.Event()

    def held(asked: Problem, limits: Limits) -> Outcome:
        """A search that lasts until the server is being stopped."""
        begun.set()
        assert go_on.wait(200)
        return solve(asked, limits)

    monkeypatch.setattr(handlers, "solve", held)
    with serving(grace_seconds=200) as running, connect(running.address) as client:
        caller = threading.Thread(target=lambda: outcomes.append(client.solve(problem())))
        caller.start()
        assert begun.wait(200)
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        wait_until(running.stopping.is_set)
        go_on.set()
        stopping.join(200)
        caller.join(200)
    assert outcomes
    assert outcomes[0].ledger is not None


def test_the_command_serves_and_stops_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--address", "127.0.0.1:0"]
    database = ["--database", f"sqlite:///{tmp_path}/store.sqlite", "--workers", "1"]
    with subprocess.Popen([*command, *database], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        event = json.loads(process.stderr.readline())
        assert event["event"] == "serving"
        with connect(event["address"]) as client:
            assert client.solve(problem(), Limits(5.0)).ledger is not None
        process.terminate()
        assert process.wait(60) == 0
        events = [json.loads(line) for line in process.stderr if line.startswith("{")]
    (call,) = [event for event in events if event["event"] == "call"]
    assert call["code"] == "OK"
    assert call["method"] == "/raq.v1.SolverService/Solve"
    assert len(call["request"]) == 32


def test_a_log_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--address", "127.0.0.1:0"]
    database = ["--database", f"sqlite:///{tmp_path}/store.sqlite", "--workers", "1"]
    with subprocess.Popen([*command, *database], stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        address = json.loads(process.stderr.readline())["address"]
        with connect(address) as client:
            for _ in range(50):  # 12 KB of lines; the pipe takes 4
                assert client.solve(problem(), Limits(20.0)).ledger is not None
        process.terminate()
        assert process.wait(60) == 0


def test_a_server_that_can_not_start_lets_go_of_its_port(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InvalidInput, match="database"):
        start_server(ServerConfig(address=address, database=f"postgresql://raq@/x?host={tmp_path}", workers=1))
    with serving(address=address) as running, connect(running.address) as client:
        assert client.solve(problem()).ledger is not None


def test_a_signal_is_not_lost_whichever_thread_it_comes_to(tmp_path: Path) -> None:
    # The kernel may give a signal to any thread; here it is a thread for certain, and the main thread stays asleep.
    script = (
        "import signal, threading, time, raq_server.app as app\n"
        "begin = app.start_server\n"
        "def later():\n"
        "    time.sleep(1)\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "def begun(config):\n"
        "    running = begin(config)\n"
        "    threading.Thread(target=later, daemon=True).start()\n"
        "    return running\n"
        "app.start_server = begun\n"
        "from raq_server.cli import main\n"
        "main()\n"
    )
    where = ["--address", "127.0.0.1:0", "--workers", "1", "--database", f"sqlite:///{tmp_path}/store.sqlite"]
    done = subprocess.run(
        [sys.executable, "-c", script, *where], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert '"event": "stopped"' in done.stderr


@pytest.mark.parametrize("form", [JsonLines(), TextLines()])
def test_a_line_of_the_log_holds_the_fields_and_the_traceback(form: logging.Formatter) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        record = LOG.makeRecord(LOG.name, logging.ERROR, "", 0, "bug", (), sys.exc_info(), extra={"fields": {"a": 1}})
    line = form.format(record)
    assert "bug" in line
    assert "ZeroDivisionError" in line
    if isinstance(form, JsonLines):
        assert json.loads(line)["a"] == 1


def test_two_servers_in_one_process(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/shared.sqlite"
    config = ServerConfig(address="127.0.0.1:0", database=database, workers=1, grace_seconds=0)
    with start_server(config) as first, start_server(config) as second:
        assert first.address != second.address
        for running in (first, second):
            with connect(running.address) as client:
                assert client.solve(problem()).ledger is not None
