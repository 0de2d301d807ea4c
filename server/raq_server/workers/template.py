"""Processes forked from a template that has the solver and OR-Tools loaded, no threads and no calls.

The template is started once for all servers of a process, which do not wait for it, and ends with it. A new process
costs a few milliseconds, while a new interpreter would import for a second. Forking the server itself is no choice: it
has threads, and gRPC.
"""

import atexit
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Final

_PID: Final = struct.Struct(">q")
_COMMAND: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from raq_server.workers.process import serve_template; serve_template()"
)  # fmt: skip


class Template:
    """This process's end of the template. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._end)

    def start(self) -> None:
        """Start the template if there is none. Raises OSError if it can't."""
        with self._lock:
            if self._line is None:
                self._line = self._start()

    def fork(self, connection: Connection) -> int:
        """Fork a process that gets a duplicate of the connection; returns its number. Raises OSError if it can't."""
        with self._lock:
            if self._line is not None:
                with suppress(ConnectionError):  # the template was killed: start another
                    return self._forked(self._line, connection)
            self._line = self._start()
            return self._forked(self._line, connection)

    def _forked(self, line: socket.socket, connection: Connection) -> int:
        socket.send_fds(line, [b"F"], [connection.fileno()])
        pid = int(_PID.unpack(_exactly(line, _PID.size))[0])
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def _start(self) -> socket.socket:
        self._end()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-c", _COMMAND, *sys.path]
        with theirs:
            try:
                self._process = subprocess.Popen(command, stdin=theirs.fileno())  # noqa: S603  # this interpreter, our code
            except OSError:
                ours.close()
                raise
        return ours

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None  # so that a start that fails is tried again


def _exactly(line: socket.socket, size: int) -> bytes:
    content = line.recv(size, socket.MSG_WAITALL)
    if len(content) < size:
        raise ConnectionResetError("the template process has ended")
    return content


def serve(work: Callable[[Connection], None]) -> None:
    """The life of the template: fork a process for every connection it gets, until the server closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended processes disappear by themselves
    line = socket.socket(fileno=os.dup(0))
    while True:
        try:
            _, files, *_ = socket.recv_fds(line, 1, 1)
        except OSError:  # not only an end: a server that was killed with messages unread resets the line
            return
        if not files:
            return
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, or no memory
            pid = -(error.errno or 1)
        if pid == 0:
            _live(line, Connection(files[0]), work)
        os.close(files[0])
        try:
            line.sendall(_PID.pack(pid))
        except OSError:
            return


def _live(line: socket.socket, connection: Connection, work: Callable[[Connection], None]) -> None:
    """The life of a forked process."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        threading.Thread(target=_end_with_the_server, args=(line,), daemon=True).start()
        work(connection)
    finally:
        os._exit(0)  # without the exit handlers of the template


def _end_with_the_server(line: socket.socket) -> None:
    hung_up = select.poll()
    hung_up.register(line, 0)  # without POLLIN: the messages are the template's
    hung_up.poll()
    os._exit(0)
