"""Run the proxy and its worker until a signal ends them."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import uvicorn

from raq_client.capture.exchange import Exchange
from raq_client.capture.proxy import Proxy
from raq_client.capture.worker import Counted, Job, Worker
from raq_client.progress import Notes
from raq_solver.errors import Fault, InvalidInput

SECONDS_BETWEEN_NOTES: Final = 60.0
_SECONDS_TO_END: Final = 5
"""Time that answers under way have to end after the first signal."""


def listen(address: str) -> socket.socket:
    """A socket that listens on HOST:PORT (port 0: any that is free). Raises InvalidInput."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidInput(Fault("--listen", f"{address!r} is not HOST:PORT, for example 127.0.0.1:8081"))
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=_family(host))
    except (OSError, OverflowError) as error:
        what = f"can't listen on {address}: {getattr(error, 'strerror', None) or error}; choose another port"
        raise InvalidInput(Fault("--listen", what)) from error


def serve(upstream: str, listening: socket.socket, job: Job, note: Notes) -> tuple[int, Counted]:
    """Forward and count until SIGINT or SIGTERM; then count what is waiting, or leave it at a second signal.

    Returns the number of requests forwarded, and what was counted. Raises InvalidInput if the worker can't start, or
    failed.
    """
    worker = Worker(job)
    try:
        if worker.before.windows:
            note(f"going on from {job.output}: {worker.before.windows} windows are counted")
        host, port = listening.getsockname()[:2]
        note(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}, forwarding to {upstream}")
        watch = _Watch(worker, note)
        proxy = Proxy(upstream, watch.observe, watch.once)
        with suppress(KeyboardInterrupt, SystemExit):
            asyncio.run(_serve(proxy, listening, watch))
    finally:
        with _hurried(worker, note):
            counted = worker.close()
    return proxy.forwarded, counted


class _Watch:
    """Passes exchanges on to the worker, and says what the user should know, each thing once."""

    def __init__(self, worker: Worker, note: Notes) -> None:
        self._worker, self._note = worker, note
        self._said: set[str] = set()
        self._observed, self._last = 0, worker.windows

    def observe(self, exchange: Exchange) -> None:
        """Have an exchange counted."""
        self._observed += 1
        self._worker.submit(exchange)
        if not self._worker.is_alive:
            self.once("counting has failed; requests are still forwarded, end with Ctrl-C to see why")

    def once(self, what: str) -> None:
        """Say this, if it was not said before."""
        if what not in self._said:
            self._said.add(what)
            self._note(what)

    async def report(self) -> None:
        """Say now and then how far the worker is."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_NOTES)
            if self._worker.windows != self._last:
                self._last = self._worker.windows
                self._note(f"{self._observed} exchanges, {self._last} windows counted")


async def _serve(proxy: Proxy, listening: socket.socket, watch: _Watch) -> None:
    reports = asyncio.create_task(watch.report())
    try:
        await server_of(proxy).serve(sockets=[listening])
    finally:
        reports.cancel()
        await proxy.close()


def server_of(proxy: Proxy) -> uvicorn.Server:
    """A server for the proxy that adds nothing of its own to an answer."""
    config = uvicorn.Config(
        proxy,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # a broken answer is reported by the proxy
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def _hurried(worker: Worker, note: Notes) -> Iterator[None]:
    """While the worker ends: a signal makes it leave out what is waiting, instead of ending this process."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        worker.hurry()
        note("leaving out what is waiting")

    before: dict[signal.Signals, Callable[..., object] | int | None] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
