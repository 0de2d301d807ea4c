"""Plain HTTP beside gRPC: /metrics for Prometheus, /live and /ready for probes."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from raq_solver.errors import Fault, InvalidInput

MOST_CONNECTIONS: Final = 32
MOST_SECONDS: Final = 5.0

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Nothing: probes come every few seconds."""


class _Bounded(ThreadingWSGIServer):
    """Answers a few connections at a time, and none for longer than some seconds: probes are short."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._until: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; beyond the limit, hang up."""
        if len(self._until) >= MOST_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._until[request] = time.monotonic() + MOST_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Hang up."""
        self._until.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections whose time is over, twice a second: their threads then read an end."""
        for request, until in list(self._until.items()):
            if time.monotonic() > until:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)


class _BoundedIPv6(_Bounded):
    address_family = socket.AF_INET6


def serve_metrics(address: str, registry: CollectorRegistry, ready: Callable[[], bool]) -> tuple[WSGIServer, str]:
    """Answer GET at HOST:PORT in a thread; returns the server, to be shut down, and its address.

    Raises InvalidInput if the address can't be bound, or names no host: that would be every network of this machine.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        what = "is not HOST:PORT; write 127.0.0.1:9100, or 0.0.0.0:9100 to serve metrics on every network"
        raise InvalidInput(Fault(address, what))
    kind = _BoundedIPv6 if ":" in host else _Bounded
    try:
        server = make_server(host.strip("[]"), int(port), _app(registry, ready), kind, _Silent)
    except (OSError, OverflowError) as error:
        raise InvalidInput(Fault(address, f"can't be bound for metrics: {error}")) from error
    threading.Thread(target=server.serve_forever, name="raq metrics", daemon=True).start()
    return server, f"{host}:{server.server_port}"


def _app(registry: CollectorRegistry, ready: Callable[[], bool]) -> "WSGIApplication":
    metrics = make_wsgi_app(registry)

    def answer(environ: Any, start: Any) -> Any:
        if environ["PATH_INFO"] not in {"/live", "/ready"}:
            return metrics(environ, start)
        fine = environ["PATH_INFO"] == "/live" or ready()
        start("200 OK" if fine else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"yes\n" if fine else b"no\n"]

    return answer
