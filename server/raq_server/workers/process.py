"""One worker process, from the server's end: started, talked to over a socket pair, ended.

Rules
- multiprocessing is not made for several threads: one thread starts and buries the processes of all pools.
- Nothing here blocks the event loop; frames are sent and received without being copied together.
"""

import asyncio
import multiprocessing
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Final

from raq_server.frames import LENGTH, Tag, head, parsed
from raq_server.worker import main
from raq_solver.errors import BackendFailure

# A process that never had threads or channels is forked from: quick to replace a worker by, and safe.
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["raq_server.worker"])
_THREAD: Final = ThreadPoolExecutor(1, "raq workers")

_SMALL: Final = 2**16
"""Frames below this are put together before they are sent."""
_AT_ONCE: Final = 2**20


class Worker:
    """A worker process, and what this process has of it."""

    def __init__(self) -> None:
        self.working = False
        """In the middle of a job, or ended: not to be given another one."""
        self._socket: socket.socket | None = None
        self._process: BaseProcess | None = None
        self._received = bytearray()
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process's number. Not before `start`."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process and wait until it takes jobs. Raises OSError, EOFError, BackendFailure.

        What was begun is to be ended in any case.
        """
        await _in_thread(self._spawn)
        await self.receive()

    async def send(self, tag: Tag, *parts: bytes) -> None:
        """Send a frame of these parts. Raises BackendFailure when the process has ended."""
        self.working = self.working or tag is Tag.JOB
        pieces = [head(tag, sum(map(len, parts))), *parts]
        if sum(map(len, pieces)) < _SMALL:
            pieces = [b"".join(pieces)]
        assert self._socket is not None
        try:
            for piece in pieces:
                await asyncio.get_running_loop().sock_sendall(self._socket, piece)
        except OSError as error:
            raise self._gone() from error

    async def receive(self) -> tuple[Tag, bytes]:
        """Wait for a frame. Raises BackendFailure when the process has ended."""
        try:
            (length,) = LENGTH.unpack(await self._read(LENGTH.size))
            tag, content = parsed(await self._read(length))
        except (OSError, EOFError) as error:
            raise self._gone() from error
        if tag in {Tag.END, Tag.ERROR, Tag.BUG}:
            self.working = False
        return tag, content

    async def end(self) -> None:
        """Kill the process, wait for its end, and close what is left of it. May be called again."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())
        await asyncio.shield(self._ending)

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _CONTEXT.Process(target=main, args=(theirs,), daemon=True, name="raq worker")
                process.start()
            except BaseException:
                ours.close()
                raise
        ours.settimeout(0)
        self._socket, self._process = ours, process

    async def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            assert self._socket is not None
            missing = count - len(self._received)
            got = await asyncio.get_running_loop().sock_recv(self._socket, min(max(missing, _SMALL), _AT_ONCE))
            if not got:
                raise EOFError
            self._received += got
        content = bytes(memoryview(self._received)[:count])
        del self._received[:count]
        return content

    async def _end(self) -> None:
        if self._process is None:
            await _in_thread(lambda: None)  # the thread may be starting it at this moment
        if self._process is not None:
            self._process.kill()
            await _readable(self._process.sentinel)
            await _in_thread(self._bury)
        if self._socket is not None:
            self._socket.close()

    def _bury(self) -> None:
        assert self._process is not None
        self._process.join()
        self._process.close()

    def _gone(self) -> BackendFailure:
        self.working = True  # whatever it was doing: it can't be used again
        return BackendFailure("the process that solved this ended; was it out of memory?")


async def _in_thread(work: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(_THREAD, work)


async def _readable(file: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(file)
