"""Servers in processes of their own, to be killed, and what is left of them."""

import os
import signal
import subprocess
import sys
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


def descendants(process: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
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
