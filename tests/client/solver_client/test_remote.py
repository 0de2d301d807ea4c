"""The client by itself: it is light to import, tries again when it may, and names the call in what it raises."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from raq_client import connect
from raq_client.solver_client.protocol import ROOTS_VARIABLE, TOKEN_VARIABLE, open_solver
from raq_proto import convert
from raq_proto.errors import Overloaded, Unauthenticated
from raq_proto.status import REQUEST_ID_KEY, status_of
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_server.config import Scope, TokenEntry
from raq_server.service.tokens import hash_of
from raq_solver.errors import InvalidInput, RaqError, ServiceUnavailable
from raq_solver.solve import solve
from support.services import Certificates, problem, serving


def test_importing_the_client_is_quick() -> None:
    watched = "import sys, raq_client; print([m for m in ('grpc', 'numpy', 'ortools') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Failing(solver_service_pb2_grpc.SolverServiceServicer):
    """Fails so many times with an error, then answers."""

    def __init__(self, error: RaqError, times: int) -> None:
        self.error = error
        self.left = times
        self.request_ids: list[object] = []

    def Solve(self, request: solver_service_pb2.SolveRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
        metadata = dict(context.invocation_metadata())
        self.request_ids.append(metadata[REQUEST_ID_KEY])
        if self.left:
            self.left -= 1
            status = rpc_status.to_status(status_of(self.error))
            trailing = (*status.trailing_metadata, (REQUEST_ID_KEY, str(metadata[REQUEST_ID_KEY])))
            context.set_trailing_metadata(trailing)
            context.abort(status.code, status.details)
        outcome = solve(convert.problem_from_proto(request.problem))
        return solver_service_pb2.SolveResponse(outcome=convert.outcome_to_proto(outcome))


@contextmanager
def answered_by(servicer: Failing) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    solver_service_pb2_grpc.add_SolverServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_unavailable_is_tried_again_until_it_is_answered() -> None:
    servicer = Failing(ServiceUnavailable("not now"), 2)
    with answered_by(servicer) as address, connect(address) as client:
        assert client.solve(problem()).ledger is not None
    assert len(servicer.request_ids) == 3
    assert len(set(servicer.request_ids)) == 1


def test_after_four_attempts_it_is_told_with_the_request_id() -> None:
    servicer = Failing(ServiceUnavailable("not now"), 9)
    with (
        answered_by(servicer) as address,
        connect(address) as client,
        pytest.raises(ServiceUnavailable, match=r"not now \[request [0-9a-f]{32}\]") as caught,
    ):
        client.solve(problem())
    assert len(servicer.request_ids) == 4
    assert str(servicer.request_ids[0]) in str(caught.value)


@pytest.mark.parametrize("error", [Overloaded("busy", 2.5), Unauthenticated("who?")])
def test_other_errors_are_not_tried_again(error: RaqError) -> None:
    servicer = Failing(error, 1)
    with answered_by(servicer) as address, connect(address) as client, pytest.raises(type(error)) as caught:
        client.solve(problem())
    assert len(servicer.request_ids) == 1
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_seconds == 2.5


def test_the_command_line_takes_credentials_from_the_environment(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, entry = certificates, TokenEntry(name="ci", sha256=hash_of("secret"), scope=Scope.SOLVE)
    with serving(certificate=made.server, private_key=made.server_key, tokens=[entry]) as running:
        monkeypatch.setenv(ROOTS_VARIABLE, str(made.authority))
        with open_solver(running.address) as asker, pytest.raises(Unauthenticated):
            asker.solve(problem())
        monkeypatch.setenv(TOKEN_VARIABLE, "secret")
        with open_solver(running.address) as asker:
            assert asker.solve(problem()).ledger is not None
        monkeypatch.setenv(ROOTS_VARIABLE, "nowhere.pem")
        with pytest.raises(InvalidInput, match="nowhere"), open_solver(running.address):
            pass


def test_a_status_without_our_details_is_still_an_error() -> None:
    class Foreign(Failing):
        def Solve(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802
            status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="no details")
            context.abort_with_status(rpc_status.to_status(status))

    servicer = Foreign(Unauthenticated(""), 0)
    with answered_by(servicer) as address, connect(address) as client, pytest.raises(InvalidInput, match="no details"):
        client.solve(problem())
