"""Profiles in chunks: announced, checked against what was announced, refused before they are sent, downloaded."""

import itertools
import resource
import time
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client import connect
from raq_proto.convert import profile_from_proto, profile_to_proto
from raq_proto.v1 import profile_service_pb2, profile_service_pb2_grpc
from raq_server import RunningServer
from raq_server.service.uploads import Upload
from raq_solver.errors import InvalidInput
from raq_solver.tensors import Tensor
from support.services import profile, serving

PutRequest, PutStart = profile_service_pb2.PutRequest, profile_service_pb2.PutStart


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving(profile_limit_bytes=2**20) as server:
        yield server


@pytest.fixture
def stub(running: RunningServer) -> "Iterator[profile_service_pb2_grpc.ProfileServiceStub]":
    with grpc.insecure_channel(running.address) as channel:
        yield profile_service_pb2_grpc.ProfileServiceStub(channel)


def announced(digest: str, size: int) -> profile_service_pb2.PutRequest:
    return PutRequest(start=PutStart(digest=digest, size_bytes=size))


def refusal(stub: "profile_service_pb2_grpc.ProfileServiceStub", *parts: profile_service_pb2.PutRequest) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Put(iter(parts), timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(refused.value.details())


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)), st.booleans())
def test_any_cut_is_joined_to_the_same(content: bytes, cuts: list[int], with_start: bool) -> None:  # noqa: FBT001
    upload = Upload(40)
    if with_start:
        upload.add(announced("", len(content)))
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    for begin, end in itertools.pairwise(places):
        upload.add(PutRequest(chunk=content[begin:end]))
    assert upload.content() == content


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(0, 100))
def test_never_more_than_allowed_or_announced_is_taken(sizes: list[int], said: int) -> None:
    upload, total = Upload(50), sum(sizes)
    allowed = said <= 50 and total == said
    try:
        upload.add(announced("", said))
        for size in sizes:
            upload.add(PutRequest(chunk=bytes(size)))
        assert len(upload.content()) == total
    except InvalidInput:
        assert not allowed
    else:
        assert allowed


def test_parts_out_of_place_are_refused(stub: "profile_service_pb2_grpc.ProfileServiceStub") -> None:
    made = profile_to_proto(profile())
    content = made.SerializeToString()
    whole, chunk = PutRequest(profile=made), PutRequest(chunk=content)
    start = announced("0" * 64, len(content))
    for parts in ([], [whole, whole], [whole, chunk], [chunk, whole], [chunk, start], [start, start], [start, whole]):
        assert "send either one message" in refusal(stub, *parts)


def test_clients_without_announcement_are_served(stub: "profile_service_pb2_grpc.ProfileServiceStub") -> None:
    for seed, single in ((100, True), (101, False)):
        made = profile(seed=seed)
        content = profile_to_proto(made).SerializeToString()
        parts = [PutRequest(profile=profile_to_proto(made))] if single else [PutRequest(chunk=content)]
        answer = stub.Put(iter(parts), timeout=30)
        assert answer.created
        assert answer.info.digest == made.digest()
        got = stub.Get(profile_service_pb2.GetRequest(digest=made.digest()), timeout=30).profile
        assert profile_from_proto(got).digest() == made.digest()


def test_what_was_announced_must_come(stub: "profile_service_pb2_grpc.ProfileServiceStub") -> None:
    content = profile_to_proto(profile(seed=1)).SerializeToString()
    other = profile(seed=2).digest()
    size = len(content)
    assert f"{other} was announced" in refusal(stub, announced(other, size), PutRequest(chunk=content))
    assert "have come" in refusal(stub, announced(other, size + 1), PutRequest(chunk=content))
    assert "more than" in refusal(stub, announced(other, size - 1), PutRequest(chunk=content))
    assert "64 hexadecimal digits" in refusal(stub, announced("x", size))


def test_a_profile_that_is_too_large_is_refused_before_it_is_sent(running: RunningServer) -> None:
    sent = []

    def parts() -> Iterator[profile_service_pb2.PutRequest]:
        yield announced("0" * 64, 2**20 + 1)
        time.sleep(0.3)
        for _ in range(10_000):
            sent.append(1)
            yield PutRequest(chunk=bytes(2**16))

    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError, match="is larger than"):
        profile_service_pb2_grpc.ProfileServiceStub(channel).Put(parts(), timeout=30)
    assert len(sent) < 100


def test_what_is_stored_is_not_sent_again(stub: "profile_service_pb2_grpc.ProfileServiceStub") -> None:
    made = profile(seed=3)
    content = profile_to_proto(made).SerializeToString()
    first = stub.Put(iter([announced(made.digest(), len(content)), PutRequest(chunk=content)]), timeout=30)
    again = stub.Put(iter([announced(made.digest(), len(content))]), timeout=30)
    assert (first.created, again.created) == (True, False)
    assert again.info.digest == first.info.digest == made.digest()


def test_lists_come_in_pages(stub: "profile_service_pb2_grpc.ProfileServiceStub") -> None:
    for seed in range(200, 205):
        stub.Put(iter([PutRequest(profile=profile_to_proto(profile(seed=seed)))]), timeout=30)
    everything = [info.digest for info in stub.List(profile_service_pb2.ListRequest()).profiles]
    assert {profile(seed=seed).digest() for seed in range(200, 205)} <= set(everything)
    assert everything == sorted(everything)
    read: list[str] = []
    token = ""
    for _ in range(len(everything) // 2 + 1):
        page = stub.List(profile_service_pb2.ListRequest(page_size=2, page_token=token))
        read += [info.digest for info in page.profiles]
        token = page.next_page_token
        if not token:
            break
    assert read == everything
    whole = stub.List(profile_service_pb2.ListRequest(page_size=len(everything)))
    assert not whole.next_page_token
    for wrong, said in (
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "1000"),
        ({"page_token": "x"}, "page_token"),
    ):
        with pytest.raises(grpc.RpcError, match=said) as caught:
            stub.List(profile_service_pb2.ListRequest(**wrong))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_profile_beyond_a_message_is_downloaded() -> None:
    made = profile(tensors=4000)
    with serving(message_limit_bytes=2**16) as running, connect(running.address) as client:
        with grpc.insecure_channel(running.address) as channel:
            stub = profile_service_pb2_grpc.ProfileServiceStub(channel)
            content = profile_to_proto(made).SerializeToString()
            parts = [PutRequest(chunk=content[at : at + 2**15]) for at in range(0, len(content), 2**15)]
            digest = stub.Put(iter(parts), timeout=30).info.digest
            with pytest.raises(grpc.RpcError, match="use Download"):
                stub.Get(profile_service_pb2.GetRequest(digest=digest), timeout=30)
        assert len(content) > 2**17
        assert digest == made.digest()
        with pytest.raises(InvalidInput, match="put it first"):
            client.profile("0" * 64)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_profile_of_more_than_64_mebibytes(store: str, request: pytest.FixtureRequest) -> None:
    """Put, solved by its digest and downloaded, with the default limits."""
    tensors = 90_000
    small = profile(tensors=tensors)
    named = tuple(Tensor(f"{'x' * 740}.{i}", t.shape, t.source_type) for i, t in enumerate(small.tensors))
    large = replace(small, tensors=named)
    settings = {"database": request.getfixturevalue("postgres").url} if store == "postgres" else {}
    with serving(**settings) as running, connect(running.address) as client:
        began = time.monotonic()
        stored = client.put_profile(large)
        took = time.monotonic() - began
        assert stored.size_bytes > 64 * 2**20
        assert stored.digest == large.digest()
        began = time.monotonic()
        assert client.put_profile(large).digest == stored.digest
        again = time.monotonic() - began
        began = time.monotonic()
        assert client.profile(stored.digest).digest() == large.digest()
        back = time.monotonic() - began
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{store}: {stored.size_bytes / 2**20:.0f} MiB put in {took:.1f} s, again {again:.1f}, got {back:.1f}, {most}"
    )
