"""What tests put around the capturing proxy: the proxy in a thread, servers that misbehave, a relay that records."""

import asyncio
import http.client
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

from raq_client.capture.exchange import Exchange
from raq_client.capture.proxy import Proxy
from raq_client.capture.serve import Front, server_of


@contextmanager
def running_proxy(upstream: str, observe: Callable[[Exchange], None], said: list[str]) -> Iterator[int]:
    """The port of a proxy in a thread."""
    with running_front(Proxy(upstream, observe, said.append)) as port:
        yield port


@contextmanager
def running_front(front: Front) -> Iterator[int]:
    """The port of a proxy or endpoint in a thread."""
    server = server_of(front)

    async def run() -> None:
        await server.serve(sockets=[listening])
        await front.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def tcp_server(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that runs `handle` in a thread for each connection, then closes it."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            handle(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=answer, args=(listening.accept()[0],)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in (accepting, *threads):
            thread.join()


def read_request(connection: socket.socket) -> bytes:
    """A request with a Content-Length, or without a body: all its bytes."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    found = connection.recv(1 << 16)
    if not found:
        raise OSError("closed")
    return found


@dataclass
class Relay:
    """What passed a relay: for each connection the request and the answer, as they were on the wire."""

    address: tuple[str, int]
    passed: list[tuple[bytes, bytes]] = field(default_factory=list)

    def handle(self, connection: socket.socket) -> None:
        request = read_request(connection)
        answer = b""
        with closing(socket.create_connection(self.address)) as server:
            server.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            while part := server.recv(1 << 16):
                answer += part
                connection.sendall(part)
        self.passed.append((request.partition(b"\r\n\r\n")[2], _body(answer)))


def _body(answer: bytes) -> bytes:
    """The body of an answer, read by Python's own client."""

    class Wire:
        def makefile(self, _mode: str) -> io.BytesIO:
            return io.BytesIO(answer)

    response = http.client.HTTPResponse(Wire())  # type: ignore[arg-type]
    response.begin()
    return response.read()


def fetch(port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """The body of an answer; http.client's exceptions where it breaks off."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, headers or {})
        return connection.getresponse().read()
    finally:
        connection.close()
