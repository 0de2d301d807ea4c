"""A request answered by a process of its own, which can be killed at any time. Both ends: `answers` and `_work`.

Rules
- A process answers one request, so nothing is left over from an earlier one.
- Only bytes travel, never pickles, because requests come from strangers. To the process: a header and the request;
  then profiles that it asks for, and an empty message for each answer that was taken. From it: a byte that says what
  the message is (`_Tag`), and its content.
"""

import importlib
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from enum import Enum, unique
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final, Self

from google.rpc import status_pb2

from raq_proto.convert import profile_from_proto
from raq_proto.status import status_of
from raq_proto.v1 import profile_pb2
from raq_server.limits import RequestLimits
from raq_server.workers import handlers
from raq_server.workers.handlers import Answer
from raq_server.workers.template import Template, serve
from raq_solver.errors import BackendFailure, RaqError
from raq_solver.profile import Profile

if TYPE_CHECKING:  # the template needs no database
    from raq_server.workers.job import Job

_TEMPLATE: Final = Template()
_END_SECONDS: Final = 5.0
"""Longest wait for the end of a killed process."""
LOADED_LATE: Final = ("ortools.math_opt.python.mathopt", "scipy.optimize")
"""What the solver imports when it first needs it, which takes half a second; the template has it loaded."""
_NICENESS: Final = 5
"""Processes that solve give way to the server's event loop, which has to answer other calls meanwhile."""


@unique
class _Tag(Enum):
    """What a message from the process is."""

    PROFILE = b"P"
    """The digest of a stored profile that it needs."""
    OBSERVE = b"O"
    """JSON of a finished search."""
    PROVEN = b"A"
    """An answer that is final."""
    ANSWER = b"a"
    """An answer that depends on the time there was."""
    ERROR = b"E"
    """A google.rpc.Status; the job is over."""
    BUG = b"B"
    """A traceback; the job is over."""
    END = b"."
    """The job is over."""


class StatusError(Exception):
    """An error that a process has already turned into a status."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def answers(job: "Job") -> Iterator[Answer]:
    """The answers to a job, found by a process of its own, which ends with this iterator or when the job is cancelled.

    Raises StatusError, and BackendFailure if the process ends by itself.
    """
    try:
        started = _Process()
    except OSError as error:
        raise BackendFailure(f"no process could be started to solve this: {error.strerror}") from error
    with started as process:
        job.process_id = process.pid
        job.on_cancel(process.kill)
        try:
            yield from _received(process.connection, job)
        except (OSError, EOFError) as error:
            process.gone()
            job.killed()
            job.check()
            raise BackendFailure("the process that solved this ended; was it out of memory?") from error


def _received(connection: Connection, job: "Job") -> Iterator[Answer]:
    seconds = None if job.deadline is None else max(0.0, job.deadline - time.monotonic())
    header = {"method": job.method, "seconds": seconds, "limits": asdict(job.limits)}
    connection.send_bytes(json.dumps(header).encode())
    connection.send_bytes(job.request)
    while True:
        message = connection.recv_bytes()
        tag, content = _Tag(message[:1]), message[1:]
        match tag:
            case _Tag.PROVEN | _Tag.ANSWER:
                yield Answer(content, proven=tag is _Tag.PROVEN)
                connection.send_bytes(b"")
            case _Tag.PROFILE:
                connection.send_bytes(job.profiles.content(content.decode()))
            case _Tag.OBSERVE:
                job.observe(*json.loads(content))
            case _Tag.ERROR:
                raise StatusError(status_pb2.Status.FromString(content))
            case _Tag.BUG:
                raise RuntimeError(content.decode())
            case _Tag.END:
                return


class _Process:
    """A process that waits for its request, and is killed at the end of the context.

    It never ends by itself but by a crash, so that its number can't belong to another process when it is killed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gone = False
        self.connection, theirs = Pipe()
        with theirs:
            self.pid = _TEMPLATE.fork(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.gone()
        # Its end of the connection closes when its memory has been freed; only then may the next job begin.
        with self.connection, suppress(OSError, EOFError):
            while self.connection.poll(_END_SECONDS):
                self.connection.recv_bytes()

    def kill(self) -> None:
        """Kill it without waiting for its end. May be called from any thread, again."""
        with self._lock, suppress(ProcessLookupError):
            if not self._gone:
                os.kill(self.pid, signal.SIGKILL)

    def gone(self) -> None:
        """Do not kill it any more: it has been, or has crashed."""
        with self._lock:
            self._gone = True


def start_template() -> None:
    """Start the process that others are forked from, without waiting until it has imported. Raises OSError."""
    _TEMPLATE.start()


def serve_template() -> None:
    """The life of the template process."""
    for module in LOADED_LATE:
        importlib.import_module(module)
    serve(_work)


def _work(connection: Connection) -> None:
    """The life of the process."""
    os.nice(_NICENESS)
    header, request = json.loads(connection.recv_bytes()), connection.recv_bytes()
    desk = _ProcessDesk(connection, RequestLimits(**header["limits"]), header["seconds"])
    try:
        message = handlers.read(header["method"], request)
        for answer in handlers.answers(header["method"], message, desk):
            _send(connection, _Tag.PROVEN if answer.proven else _Tag.ANSWER, answer.content)
            connection.recv_bytes()
    except RaqError as error:
        _send(connection, _Tag.ERROR, status_of(error).SerializeToString())
    except Exception:  # noqa: BLE001  # a bug: the server logs its traceback
        _send(connection, _Tag.BUG, traceback.format_exc().encode(errors="replace"))
    else:
        _send(connection, _Tag.END)
    connection.recv_bytes()  # until it is killed


def _send(connection: Connection, tag: _Tag, content: bytes = b"") -> None:
    connection.send_bytes(tag.value + content)


class _ProcessDesk:
    """What a handler may use, from inside the process."""

    def __init__(self, connection: Connection, limits: RequestLimits, seconds: float | None) -> None:
        self._connection = connection
        self._profiles: dict[str, Profile] = {}
        self.limits = limits
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def profile(self, digest: str) -> Profile:
        """The stored profile of that digest. If there is none, the server ends this process."""
        if digest not in self._profiles:
            _send(self._connection, _Tag.PROFILE, digest.encode())
            self._profiles[digest] = profile_from_proto(profile_pb2.Profile.FromString(self._connection.recv_bytes()))
        return self._profiles[digest]

    def observe(self, termination: str, seconds: float, gap: float | None) -> None:
        """Count a finished search."""
        _send(self._connection, _Tag.OBSERVE, json.dumps([termination, seconds, gap]).encode())

    def check(self) -> None:
        """Nothing: this process is killed instead."""
