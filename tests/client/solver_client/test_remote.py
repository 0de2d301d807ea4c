"""The client by itself: it is light to import, tries again when it may, and names the call in what it raises."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from google.rpc import status_pb2
from grpc_status import rpc_status

from raq_client import connect
from raq_client.solver_client.connection import Connection
from raq_client.solver_client.protocol import ROOTS_VARIABLE, TOKEN_VARIABLE, open_solver
from raq_proto import convert
from raq_proto.errors import Overloaded, Unauthenticated
from raq_proto.status import REQUEST_ID_KEY, status_of
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_server.config import Scope, TokenEntry
from raq_server.service.tokens import hash_of
from raq_solver.budget import TotalBytes
from raq_solver.errors import InvalidInput, RaqError, ServiceUnavailable
from raq_solver.knapsack import Limits
from raq_solver.questions.sweep import sweep
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
def answered_by(servicer: solver_service_pb2_grpc.SolverServiceServicer) -> Iterator[str]:
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


def test_after_five_attempts_it_is_told_with_the_request_id() -> None:
    servicer = Failing(ServiceUnavailable("not now"), 9)
    with (
        answered_by(servicer) as address,
        connect(address) as client,
        pytest.raises(ServiceUnavailable, match=r"not now \[request [0-9a-f]{32}\]") as caught,
    ):
        client.solve(problem())
    assert len(servicer.request_ids) == 5
    assert str(servicer.request_ids[0]) in str(caught.value)


@pytest.mark.parametrize("error", [Overloaded("busy", 2.5), Unauthenticated("who?")])
def test_other_errors_are_not_tried_again(error: RaqError) -> None:
    servicer = Failing(error, 1)
    with answered_by(servicer) as address, connect(address) as client, pytest.raises(type(error)) as caught:
        client.solve(problem())
    assert len(servicer.request_ids) == 1
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_seconds == 2.5


class BreakingOff(solver_service_pb2_grpc.SolverServiceServicer):
    """Ends a sweep with UNAVAILABLE after so many points of each attempt."""

    def __init__(self, *points: int) -> None:
        self.points = list(points)

    def Sweep(  # noqa: N802
        self, request: solver_service_pb2.SweepRequest, context: grpc.ServicerContext
    ) -> Iterator[solver_service_pb2.SweepResponse]:
        asked, capacities = convert.sweep_from_proto(request, lambda _digest: pytest.fail("there is no profile"))
        most = self.points.pop(0) if self.points else len(capacities)
        for number, point in enumerate(convert.points_to_proto(sweep(asked, capacities))):
            if number == most:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            yield solver_service_pb2.SweepResponse(point=point)


@pytest.mark.parametrize("points", [(1,), (2, 3), (1, 2, 3, 4, 5)])
def test_a_stream_that_breaks_off_goes_on_elsewhere(points: tuple[int, ...]) -> None:
    asked, sizes = problem(tensors=6), range(60, 121, 10)
    wanted = [(point.size, point.allocation, point.loss) for point in sweep(asked, list(sizes))]
    with answered_by(BreakingOff(*points)) as address, connect(address) as client:
        answers = client.sweep(asked, [TotalBytes(size) for size in sizes])
        found = [(point.size, point.allocation, point.loss) for point in answers]
    assert found == wanted


def test_a_stream_that_gets_no_further_is_an_error() -> None:
    with answered_by(BreakingOff(2, 2)) as address, connect(address) as client:
        answers = client.sweep(problem(tensors=6), [TotalBytes(size) for size in (60, 70, 80, 90)])
        assert len([next(answers), next(answers)]) == 2
        with pytest.raises(ServiceUnavailable, match="is stopping"):
            next(answers)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("raq:8433", "raq:8433"),
        ("dns:///raq:8433", "dns:///raq:8433"),
        ("unix:/run/raq", "unix:/run/raq"),
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_addresses_and_what_grpc_calls_them(address: str, target: str) -> None:
    assert Connection.of(address, None, False, None, None, None).address == target  # noqa: FBT003


@pytest.mark.parametrize("address", ["raq-1:8433,raq-2:8433", "10.0.0.1:1,[::1]:2", "10.0.0.1:1,"])
def test_lists_that_grpc_has_no_scheme_for_are_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"give a name of several servers as dns:///NAME:PORT"), connect(address):
        pass


def test_a_list_is_not_encrypted(certificates: Certificates) -> None:
    with pytest.raises(InvalidInput, match="certificates can't be checked for a list of servers"):
        connect("127.0.0.1:1,127.0.0.1:2", root_certificates=certificates.authority)


@pytest.mark.parametrize("listed", [",".join, lambda places: "ipv4:" + ",".join(places)])
def test_calls_go_round_a_list_of_servers(listed: Callable[[list[str]], str]) -> None:
    servicers = [Failing(ServiceUnavailable(""), 0) for _ in range(3)]
    with ExitStack() as stack:
        places = [stack.enter_context(answered_by(servicer)) for servicer in servicers]
        client = stack.enter_context(connect(listed(places)))
        deadline = time.monotonic() + 60
        while not all(servicer.request_ids for servicer in servicers):  # once all are connected, at the third call
            assert time.monotonic() < deadline
            assert client.solve(problem()).ledger is not None


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


@pytest.mark.parametrize(
    ("seconds", "left", "least", "most"),
    [
        (None, None, 0, 0),
        (2.5, None, 2.5, 2.5),
        (0.0, None, 0.001, 0.001),
        (9.0, 3.0, 2, 3),
        (None, -1.0, 0.001, 0.001),
    ],
)
def test_limits_reach_the_server(seconds: float | None, left: float | None, least: float, most: float) -> None:
    class Asked(Failing):
        limits: list[float] = []  # noqa: RUF012 - of one call

        def Solve(self, request: solver_service_pb2.SolveRequest, context: grpc.ServicerContext) -> object:  # noqa: N802
            self.limits.append(request.limit_seconds)
            return super().Solve(request, context)

    with answered_by(Asked(Unauthenticated(""), 0)) as address, connect(address) as client:
        client.solve(problem(), Limits(seconds, deadline=None if left is None else time.monotonic() + left))
    (found,) = Asked.limits
    assert least <= found <= most
