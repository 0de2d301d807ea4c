"""Serving the dashboard until it is interrupted."""

import fcntl
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from raq_client.dashboard.app import make_app
from raq_client.dashboard.folder import STATE
from raq_client.dashboard.refusal import Refusal

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_LOCK: Final = "dashboard.lock"
_TOKEN_BYTES: Final = 24
_SECONDS_TO_END: Final = 2


def serve(root: Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a folder at an address; `say` is called with the address that carries the token.

    Raises Refusal if the address can't be listened on, the folder can't be written, or has a dashboard already.
    """
    lock = _only_one(root)
    try:
        listening = _listen(host, port)
        bound = listening.getsockname()[1]
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        names = LOOPBACK if host in {*LOOPBACK, "::1"} else (*LOOPBACK, host)
        app, end = make_app(root, token, [f"{name}:{bound}" for name in names])
        os.pwrite(lock, f"http://{_in_address(host)}:{bound}/".encode().ljust(200), 0)
        say(f"dashboard of {root.resolve()}: http://{_in_address(host)}:{bound}/?token={token}")
        if host not in {*LOOPBACK, "::1"}:
            say("note: it listens beyond this machine, without encryption; who reads the address can start builds")
        config = uvicorn.Config(
            app,
            log_level="error",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_END,
            h11_max_incomplete_event_size=64 * 1024,
        )
        _Server(config, end).run(sockets=[listening])
    finally:
        os.close(lock)


class _Server(uvicorn.Server):
    """A server that ends its streams and questions first, so that no open page keeps it."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End what pages wait for, then as usual."""
        self._end()
        super().handle_exit(sig, frame)


def _only_one(root: Path) -> int:
    """Lock the folder for this dashboard: two would start the jobs of one queue."""
    state = root.resolve() / STATE
    try:
        state.mkdir(exist_ok=True)
        lock = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Refusal(f"{root}: can't be written, and a dashboard keeps its jobs there: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        where = os.pread(lock, 200, 0).decode(errors="replace").strip()
        os.close(lock)
        raise Refusal(f"{root}: has a dashboard already{f', at {where}' if where else ''}") from None
    return lock


def _listen(host: str, port: int) -> socket.socket:
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((name, port))
        listening.listen()  # from now on requests wait, if the server is not ready yet
    except OSError as error:
        listening.close()
        what = f"{host}:{port}: can't be listened on: {error.strerror or error}; choose another --port"
        raise Refusal(what) from None
    return listening


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
