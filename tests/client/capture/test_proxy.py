"""The proxy before servers that behave and that do not."""

import http.client
import json
import socket
import threading
import time

import pytest

from raq_client.capture.exchange import Exchange
from support.proxies import fetch, read_request, running_proxy, tcp_server

CHAT = "/v1/chat/completions"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@pytest.mark.parametrize(
    "body", [None, b"", b"\x00\xff" * 3, json.dumps({"messages": "ü 🙂\u2028"}).encode(), bytes(range(256)) * 2000]
)
def test_bytes_and_headers_pass_as_they_are(body: bytes | None) -> None:
    """An answer with odd headers, twice the same, spelled as it likes; a path and query with escapes."""
    seen: list[bytes] = []

    def echo(connection: socket.socket) -> None:
        request = read_request(connection)
        seen.append(request)
        sent = request.partition(b"\r\n\r\n")[2]
        length = f"Content-Length: {len(sent)}"
        lines = ("HTTP/1.1 418 Teapot", "X-OddCase: 1", "set-cookie: a", "set-cookie: b", length, "", "")
        connection.sendall("\r\n".join(lines).encode() + sent)

    observed: list[Exchange] = []
    with tcp_server(echo) as server, running_proxy(f"http://127.0.0.1:{server}", observed.append, []) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request(
            "POST", "/a%2Fb/completions?q=%C3%BC&q", body, {"Authorization": "Bearer x", "X-Custom": "1"}
        )
        answer = connection.getresponse()
        assert answer.read() == (body or b"")
        connection.close()
    assert answer.status == 418
    assert answer.getheaders() == [
        ("X-OddCase", "1"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
        ("Content-Length", str(len(body or b""))),
    ]
    (request,) = seen
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[0] == b"POST /a%2Fb/completions?q=%C3%BC&q HTTP/1.1"
    assert f"Host: 127.0.0.1:{server}".lower().encode() in [line.lower() for line in lines]
    assert b"authorization: bearer x" in [line.lower() for line in lines]
    assert not any(line.lower().startswith((b"user-agent", b"accept:")) for line in lines)
    assert observed == []  # only answers of status 200 are


def test_a_stream_passes_as_it_comes_and_is_observed_when_it_ends() -> None:
    go_on = threading.Event()

    def slow(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM + _chunk(b"data: 1\n\n"))
        assert go_on.wait(30)
        connection.sendall(_chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    observed: list[Exchange] = []
    with tcp_server(slow) as server, running_proxy(f"http://127.0.0.1:{server}", observed.append, []) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", CHAT, b"{}")
        answer = connection.getresponse()
        assert answer.read(9) == b"data: 1\n\n"  # the server has not sent the rest
        assert observed == []
        go_on.set()
        assert answer.read() == b"data: 2\n\n"
        connection.close()
    assert observed == [Exchange(CHAT, b"{}", b"data: 1\n\ndata: 2\n\n")]


def test_where_the_server_breaks_off_the_client_sees_it_too() -> None:
    def break_off(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM + _chunk(b"data: 1\n\n"))

    observed: list[Exchange] = []
    said: list[str] = []
    with tcp_server(break_off) as server, running_proxy(f"http://127.0.0.1:{server}", observed.append, said) as port:
        with pytest.raises(http.client.IncompleteRead):
            fetch(port, "POST", CHAT, b"{}")
        with pytest.raises(http.client.IncompleteRead):  # and the proxy is still there
            fetch(port, "POST", CHAT, b"{}")
    assert [each.answer for each in observed] == [b"data: 1\n\n"] * 2
    assert "broke off an answer" in said[0]


def test_without_a_server_the_client_gets_502_and_a_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    observed: list[Exchange] = []
    said: list[str] = []
    with running_proxy(f"http://127.0.0.1:{nobody}", observed.append, said) as port:
        answer = json.loads(fetch(port, "POST", CHAT, b"{}"))
    assert answer["error"]["code"] == 502
    assert "can't be reached" in answer["error"]["message"]
    assert len(said) == 1
    assert observed == []


def test_a_client_that_leaves_ends_the_request_to_the_server_and_counts() -> None:
    left = threading.Event()

    def endless(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(STREAM)
        try:
            while True:
                connection.sendall(_chunk(b"data: 1\n\n"))
                time.sleep(0.01)
        except OSError:
            left.set()

    observed: list[Exchange] = []
    with tcp_server(endless) as server, running_proxy(f"http://127.0.0.1:{server}", observed.append, []) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", CHAT, b"{}")
        answer = connection.getresponse()
        answer.read(9)
        answer.close()
        connection.close()
        assert left.wait(30)
    assert len(observed) == 1
    assert observed[0].answer.startswith(b"data: 1\n\n")
