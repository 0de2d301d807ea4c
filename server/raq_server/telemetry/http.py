"""Plain HTTP beside gRPC: /metrics for Prometheus, /live and /ready for probes."""

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Nothing: probes come every few seconds."""


class _ThreadingIPv6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


def serve_metrics(address: str, registry: CollectorRegistry, ready: Callable[[], bool]) -> tuple[WSGIServer, str]:
    """Answer GET at HOST:PORT in a thread; returns the server, to be shut down, and its address.

    Raises InvalidInput if the address can't be bound.
    """
    host, _, port = address.rpartition(":")
    kind = _ThreadingIPv6 if ":" in host else ThreadingWSGIServer
    try:
        server = make_server(host.strip("[]"), int(port), _app(registry, ready), kind, _Silent)
    except (OSError, ValueError, OverflowError) as error:
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
