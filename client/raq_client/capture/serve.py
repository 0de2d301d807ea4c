"""Run the proxy, or the endpoint of our own, and its worker until a signal ends them."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from raq_client.capture.endpoint import Endpoint
from raq_client.capture.exchange import Exchange
from raq_client.capture.proxy import Proxy
from raq_client.capture.worker import Counted, Job, Worker
from raq_client.engine import loading
from raq_client.progress import Notes
from raq_client.prompts.template import require_template
from raq_solver.errors import Fault, InvalidInput

DEFAULT_LENGTH: Final = 4096
"""Tokens of a prompt and its answer at the endpoint of our own, unless the model was trained with fewer."""
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


class Front(Protocol):
    """What clients talk to: an ASGI application that counts its requests."""

    requests: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

    async def close(self) -> None:
        """Close what is open between requests."""


def forward(upstream: str, listening: socket.socket, job: Job, note: Notes) -> tuple[int, Counted]:
    """Forward to a server and count until SIGINT or SIGTERM; then count what is waiting, or leave it at a second one.

    Returns the number of requests forwarded, and what was counted. Raises InvalidInput if the worker can't start, or
    failed.
    """
    return _run(
        lambda watch: Proxy(upstream, watch.observe, watch.once), f"forwarding to {upstream}", listening, job, note
    )


def answer(length: int | None, listening: socket.socket, job: Job, note: Notes) -> tuple[int, Counted]:
    """The same with answers by the model itself, in a context of `length` tokens (None: the model's, at most 4,096)."""
    template = require_template(job.model, job.library)
    with loading.loaded(job.model, threads=job.threads, library=job.library) as engine:
        length = min(DEFAULT_LENGTH, engine.trained_context) if length is None else length
        with engine.generator(length) as generator:
            name = job.model.stem

            def endpoint(watch: "_Watch") -> Endpoint:
                return Endpoint(name, generator, template, watch.observe)

            return _run(endpoint, f"answering with {name}, {length} tokens of context", listening, job, note)


def _run(
    front_of: Callable[["_Watch"], Front], what: str, listening: socket.socket, job: Job, note: Notes
) -> tuple[int, Counted]:
    worker = Worker(job)
    try:
        if worker.before.windows:
            note(f"going on from {job.output}: {worker.before.windows} windows are counted")
        host, port = listening.getsockname()[:2]
        note(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}, {what}")
        watch = _Watch(worker, note)
        front = front_of(watch)
        with suppress(KeyboardInterrupt, SystemExit):
            asyncio.run(_serve(front, listening, watch))
    finally:
        with _hurried(worker, note):
            counted = worker.close()
    return front.requests, counted


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


async def _serve(front: Front, listening: socket.socket, watch: _Watch) -> None:
    reports = asyncio.create_task(watch.report())
    try:
        await server_of(front).serve(sockets=[listening])
    finally:
        reports.cancel()
        await front.close()


def server_of(front: Front) -> uvicorn.Server:
    """A server that adds nothing of its own to an answer."""
    config = uvicorn.Config(
        front,
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
