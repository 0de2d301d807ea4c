"""Servers in processes of their own, to be killed, and what is left of them."""

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path


class Killed:
    """A server in a process of its own, to be killed."""

    def __init__(self, database: Path | str, *flags: str, **environment: str) -> None:
        command = [sys.executable, "-c", "from raq_server.cli import main; main()", "--address", "127.0.0.1:0"]
        url = f"sqlite:///{database}" if isinstance(database, Path) else database
        settings = ["--workers", "1", "--log-level", "warning", "--database", url, *flags]
        self.process = subprocess.Popen(
            [*command, *settings], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        assert self.process.stderr is not None
        self.address = self.process.stderr.readline().split()[-1]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Forked:
    """The same, forked from a process that has imported the server, so that a start does not take the second or more
    of processor time that the imports do."""

    def __init__(self, database: str, *flags: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["raq_server.cli", "raq_server.app"])
        ours, theirs = context.Pipe(duplex=False)
        settings = ["--workers", "1", "--log-level", "warning", "--database", database, *flags]
        self.process = context.Process(target=_serve, args=(theirs, ["--address", "127.0.0.1:0", *settings]))
        self.process.start()
        theirs.close()
        with open(ours.fileno(), closefd=False) as said:  # a descriptor
            self.address = (said.readline().split() or [""])[-1]  # empty: it has ended
        self._said = ours  # open as long as the server is there

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self._said.close()


def _serve(said: Connection, flags: list[str]) -> None:
    """The life of a forked server, with what it says on stderr sent to the process that started it."""
    os.dup2(said.fileno(), 2)
    sys.argv = ["raq-server", *flags]
    from raq_server.cli import main

    main()


def descendants(process: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # the thread has ended meanwhile
            continue
        for child in map(int, children):
            found |= {child} | descendants(child)
    return found


def private_mebibytes(process: int) -> float:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    lines = [line for line in rollup.splitlines() if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(int(line.split()[1]) for line in lines) / 1024


def peak_mebibytes(process: int) -> float:
    """The most memory that a process has had at a time, pages that it shares with others included."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
