"""A worker process: takes one job after another from its socket until the server closes it or kills the process."""

import json
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections import OrderedDict
from typing import Final

from raq_proto.convert import profile_from_proto
from raq_proto.errors import UnknownProfile
from raq_proto.status import status_of
from raq_proto.v1 import profile_pb2
from raq_server.answers import JOBS
from raq_server.frames import LENGTH, Tag, frame, job_parts, parsed
from raq_server.sizes import Sizes
from raq_solver.errors import RaqError
from raq_solver.profile import Profile

_PROFILES_KEPT: Final = 4
_NICENESS: Final = 5
"""Workers give way to the server's event loop, which has to answer others while they solve."""


def main(connection: socket.socket) -> None:
    """Serve jobs until the other end closes. The entry point of the process."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    line = Line(connection)
    profiles: OrderedDict[str, Profile] = OrderedDict()
    line.send(Tag.READY)
    while True:
        _tag, content = line.receive()
        _do(content, line, profiles)


class Line:
    """The worker's end of the socket. A thread reads it, so that the process ends when the server does."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)  # noqa: FBT003  # the library's signature
        self._socket = connection
        self._frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, tag: Tag, content: bytes = b"") -> None:
        """Send a frame."""
        self._socket.sendall(frame(tag, content))

    def receive(self) -> tuple[Tag, bytes]:
        """Wait for a frame."""
        return parsed(self._frames.get())

    def _read(self) -> None:
        file = self._socket.makefile("rb", buffering=2**16)
        while True:
            length = file.read(LENGTH.size)
            content = file.read(LENGTH.unpack(length)[0]) if len(length) == LENGTH.size else b""
            if not content:
                os._exit(0)  # the server is gone: nobody waits for what this process does
            self._frames.put(content)


class LineDesk:
    """The desk of one job: asks the server over the line."""

    def __init__(self, line: Line, profiles: OrderedDict[str, Profile], sizes: Sizes, deadline: float | None) -> None:
        self._line = line
        self._profiles = profiles
        self.sizes = sizes
        self.deadline = deadline

    def profile(self, digest: str) -> Profile:
        """The stored profile of that digest."""
        found = self._profiles.pop(digest, None)
        content = self._ask(Tag.PROFILE if found is None else Tag.PROFILE_HELD, digest)
        if content is None:
            raise UnknownProfile.of(digest)
        if found is None:
            found = profile_from_proto(profile_pb2.Profile.FromString(content))
        self._profiles[digest] = found
        while len(self._profiles) > _PROFILES_KEPT:
            self._profiles.popitem(last=False)
        return found

    def known(self, digest: str) -> bytes | None:
        """The outcome of the problem of that digest, when it was proven before."""
        return self._ask(Tag.KNOWN, digest)

    def remember(self, digest: str, outcome: bytes) -> None:
        """Keep a proven outcome."""
        self._line.send(Tag.REMEMBER, digest.encode() + outcome)

    def observe(self, termination: str, seconds: float, gap: float | None) -> None:
        """Count a search."""
        text = json.dumps({"termination": termination, "seconds": seconds, "gap": gap})
        self._line.send(Tag.OBSERVE, text.encode())

    def _ask(self, tag: Tag, digest: str) -> bytes | None:
        self._line.send(tag, digest.encode())
        answer, content = self._line.receive()
        return content if answer is Tag.GIVEN else None


def _do(content: bytes, line: Line, profiles: OrderedDict[str, Profile]) -> None:
    """One job, from its frame to the frame that ends it."""
    header, request = job_parts(content)
    seconds = header["seconds"]
    deadline = None if seconds is None else time.monotonic() + seconds
    desk = LineDesk(line, profiles, Sizes.model_validate(header["sizes"]), deadline)
    try:
        for answer in JOBS[header["method"]](request, desk):
            line.send(Tag.PROVEN if answer.proven else Tag.ANSWER, answer.content)
            line.receive()
    except RaqError as error:
        line.send(Tag.ERROR, status_of(error).SerializeToString())
    except Exception:  # noqa: BLE001  # a bug: its traceback is the server's to log
        line.send(Tag.BUG, traceback.format_exc().encode(errors="replace"))
    else:
        line.send(Tag.END)
