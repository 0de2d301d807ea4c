"""Who may do what, and how much: tokens, certificates, addresses, sizes; requests that are not requests."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from raq_client import connect
from raq_proto import convert
from raq_proto.errors import NotPermitted, Overloaded, Unauthenticated
from raq_proto.question import ProfileProblem
from raq_proto.v1 import problem_pb2, profile_pb2, profile_service_pb2, profile_service_pb2_grpc, solver_service_pb2
from raq_server import RunningServer
from raq_server.config import Scope, TokenEntry
from raq_server.service.solver_service import SERVICE
from raq_server.service.tokens import Tokens, hash_of, new_token
from raq_solver.budget import TotalBytes
from raq_solver.constraints import (
    ActiveBytes,
    AtMost,
    Ceiling,
    DistinctTypes,
    Exclude,
    Floor,
    Monotone,
    Pin,
    Region,
    Tie,
)
from raq_solver.errors import InvalidInput, ServiceUnavailable
from support.services import Certificates, problem, profile, serving, wait_until

TOKENS = {scope: new_token() for scope in Scope}
ENTRIES = [TokenEntry(name=f"a {scope}", sha256=hash_of(token), scope=scope) for scope, token in TOKENS.items()]


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    with serving(address="0.0.0.0:0", tokens=ENTRIES, tensors_limit=10, types_limit=4, constraints_limit=2) as running:
        yield running


def at(running: RunningServer) -> str:
    return running.address.replace("0.0.0.0", "127.0.0.1")


def test_without_a_token_nothing_is_answered(guarded: RunningServer) -> None:
    with connect(at(guarded)) as client, pytest.raises(Unauthenticated, match="missing"):
        client.solve(problem())
    with connect(at(guarded), token="raq_wrong") as client, pytest.raises(Unauthenticated, match="not known"):
        client.solve(problem())


def test_scopes_include_those_before_them(guarded: RunningServer) -> None:
    made = profile()
    with connect(at(guarded), token=TOKENS[Scope.READ]) as client:
        assert list(client.profiles()) == []
        with pytest.raises(NotPermitted, match="needs solve"):
            client.solve(problem())
        with pytest.raises(NotPermitted, match="needs solve"):
            client.put_profile(made)
    with connect(at(guarded), token=TOKENS[Scope.SOLVE]) as client:
        assert client.solve(problem()).ledger is not None
        digest = client.put_profile(made).digest
        with pytest.raises(NotPermitted, match="needs admin"):
            client.delete_profile(digest)
    with connect(at(guarded), token=TOKENS[Scope.ADMIN]) as client:
        assert client.delete_profile(digest)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Basic abc", pytest.param(f"bearer{TOKENS[Scope.READ]}", id="no space")],
)
def test_only_whole_bearer_tokens_count(authorization: str) -> None:
    with pytest.raises(Unauthenticated):
        Tokens.of(ENTRIES).caller("/raq.v1.ProfileService/List", authorization)


def test_beyond_this_machine_only_with_tokens_certificates_or_permission(certificates: Certificates) -> None:
    with pytest.raises(InvalidInput, match="--allow-anonymous"), serving(address="0.0.0.0:0"):
        pass
    with serving(address="0.0.0.0:0", allow_anonymous=True) as running, connect(at(running)) as client:
        assert client.solve(problem()).ledger is not None


def test_mutual_tls_takes_only_known_clients(certificates: Certificates) -> None:
    made = certificates
    settings = {"certificate": made.server, "private_key": made.server_key, "client_ca": made.authority}
    with serving(address="0.0.0.0:0", **settings) as running:
        with connect(at(running), root_certificates=made.authority) as stranger, pytest.raises(ServiceUnavailable):
            stranger.solve(problem())
        own = {"certificate": made.client, "private_key": made.client_key}
        with connect(at(running), root_certificates=made.authority, **own) as client:
            assert client.solve(problem()).ledger is not None
        with connect(at(running)) as plain, pytest.raises(ServiceUnavailable):
            plain.solve(problem())


def test_half_a_key_pair_is_refused(certificates: Certificates) -> None:
    with pytest.raises(InvalidInput, match="both"), serving(certificate=certificates.server):
        pass
    with pytest.raises(InvalidInput, match="both"):
        connect("x", certificate=certificates.client)
    with pytest.raises(InvalidInput, match="can't be read"):
        connect("x", root_certificates=Path("nowhere.pem"))


def test_an_encrypted_key_is_refused_without_asking(certificates: Certificates, tmp_path: Path) -> None:
    """OpenSSL would ask for its password at the terminal, and the server would wait there."""
    key = serialization.load_pem_private_key(certificates.server_key.read_bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    with (
        pytest.raises(InvalidInput, match="are no certificate and its private key"),
        serving(certificate=certificates.server, private_key=encrypted),
    ):
        pass


def test_limits_of_a_problem_are_named(guarded: RunningServer) -> None:
    with connect(at(guarded), token=TOKENS[Scope.SOLVE]) as client:
        with pytest.raises(InvalidInput, match="11 are given; this server takes at most 10"):
            client.solve(problem(tensors=11, types=5))
        with pytest.raises(InvalidInput, match="at most 10"):
            client.put_profile(profile(tensors=11))


def test_one_client_may_not_take_everything() -> None:
    with serving(calls_per_client=1, queue=10) as running, grpc.insecure_channel(running.address) as channel:
        stub = profile_service_pb2_grpc.ProfileServiceStub(channel)
        enough = threading.Event()

        def parts() -> Iterator[profile_service_pb2.PutRequest]:
            yield profile_service_pb2.PutRequest(chunk=b"")
            enough.wait(60)

        first = stub.Put.future(parts())
        # Whoever asks before the first call has come in takes its place, and nobody would be refused ever after.
        wait_until(lambda: running.metrics.running._value.get() == 1)
        with connect(running.address) as client, pytest.raises(Overloaded, match="the most that one client") as caught:
            list(client.profiles())
        enough.set()
        assert first.exception(60) is not None
        assert caught.value.retry_seconds > 0


def test_messages_above_the_limit_are_refused() -> None:
    with serving(message_limit_bytes=2**16) as running, connect(running.address) as client:
        with pytest.raises(Exception, match="larger than max"):
            client.solve(problem(tensors=5000))
        assert client.solve(problem()).ledger is not None


def test_a_profile_that_never_ends_is_refused() -> None:
    with serving(profile_limit_bytes=2**16) as running, grpc.insecure_channel(running.address) as channel:
        stub = profile_service_pb2_grpc.ProfileServiceStub(channel)
        endless = (profile_service_pb2.PutRequest(chunk=b"x" * 2**14) for _ in range(10**6))
        with pytest.raises(grpc.RpcError, match="larger than the 65,536 bytes"):
            stub.Put(endless)
        both = [
            profile_service_pb2.PutRequest(chunk=b"x"),
            profile_service_pb2.PutRequest(profile=profile_pb2.Profile()),
        ]
        for wrong in ([], both, [profile_service_pb2.PutRequest(chunk=b"\xff")]):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Put(iter(wrong))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_profile_whose_next_part_does_not_come_is_refused() -> None:
    enough = threading.Event()

    def paused() -> Iterator[profile_service_pb2.PutRequest]:
        yield profile_service_pb2.PutRequest(chunk=b"x")
        enough.wait(60)

    with serving(idle_seconds=0.2) as running, grpc.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.RpcError, match="did not come in time"):
            profile_service_pb2_grpc.ProfileServiceStub(channel).Put(paused())
        enough.set()


T0, BITS = ("t0", "t1"), Fraction(4)
CONSTRAINTS = (
    Pin(T0[:1], "Q1"),
    Floor(T0, BITS / 10),
    Ceiling(T0, BITS),
    Exclude(T0[1:], ("Q1",)),
    Tie(T0[:1]),
    AtMost(T0, 1, BITS),
    DistinctTypes(T0, 2),
    Region(T0, 10**6),
    ActiveBytes(T0, (Fraction(1, 8), Fraction(1)), 10**6),
    Monotone(T0[:1]),
)
PROBLEMS = [
    convert.problem_to_proto(replace(problem(), constraints=CONSTRAINTS[:plain])).SerializeToString()
    for plain in (0, 5, len(CONSTRAINTS))
] + [convert.problem_to_proto(ProfileProblem(profile(), TotalBytes(10**4))).SerializeToString()]


REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)  # the latter: no such profile


def varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def mangled(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes near a real message: some replaced, some left out, some doubled."""
    places = st.integers(0, len(content) - 1)
    edits = st.lists(st.tuples(places, st.binary(max_size=4), st.integers(0, 4)), max_size=6)

    def edited(changes: list[tuple[int, bytes, int]]) -> bytes:
        result = content
        for place, put, dropped in changes:
            result = result[:place] + put + result[place + dropped :]
        return result

    return edits.map(edited)


@given(st.sampled_from(sorted(method.name for method in SERVICE.methods)), st.sampled_from(PROBLEMS).flatmap(mangled))
def test_requests_that_are_none_are_refused_and_nothing_breaks(
    server_address: str, method: str, content: bytes
) -> None:
    # Alone, and as the problem of a request that asks for two budgets (or whatever its method reads there).
    asked = (
        b"\x0a"
        + varint(len(content))
        + content
        + solver_service_pb2.SweepRequest(budgets=[{"capacity_bytes": 40}, {"capacity_bytes": 50}]).SerializeToString()
    )
    with grpc.insecure_channel(server_address) as channel:
        for request in (content, asked):
            call = channel.unary_stream(f"/{SERVICE.full_name}/{method}")(request, timeout=60)
            try:
                list(call)
            except grpc.RpcError as error:
                assert error.code() in REFUSED, error.details()  # noqa: PT017


@given(mangled(convert.profile_to_proto(profile()).SerializeToString()))
def test_profiles_that_are_none_are_refused_and_what_is_stored_can_be_got(server_address: str, content: bytes) -> None:
    with grpc.insecure_channel(server_address) as channel:
        stub = profile_service_pb2_grpc.ProfileServiceStub(channel)
        try:
            stored = stub.Put(iter([profile_service_pb2.PutRequest(chunk=content)]), timeout=60)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()  # noqa: PT017
            return
        got = stub.Get(profile_service_pb2.GetRequest(digest=stored.info.digest), timeout=60)
        assert convert.profile_from_proto(got.profile).digest() == stored.info.digest


def test_an_unset_budget_is_a_fault() -> None:
    with pytest.raises(InvalidInput, match="budget: is missing"):
        convert.problem_from_proto(problem_pb2.Problem())
