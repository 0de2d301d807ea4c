"""Load on the service for its benchmark, and what is watched meanwhile. In processes of their own, so that they do not
share an interpreter with what is measured.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from raq_client import connect
from raq_proto.question import ProfileProblem
from raq_solver.budget import TotalBytes

PROCESSES, THREADS = 4, 8
SECONDS = 8.0
PAUSE = 0.02
SPAWN = multiprocessing.get_context("spawn")


def asked_by_threads(
    address: str,
    digest: str,
    least: int,
    cached: bool,  # noqa: FBT001
    number: int,
) -> tuple[list[float], list[str]]:
    """Call from several threads, each with its own channel, for `SECONDS`; latencies in ms, and errors."""
    latencies: list[float] = []
    failures: list[str] = []
    begin = time.perf_counter() + 1.0

    def ask(thread: int) -> None:
        with connect(address) as client:
            budget, step = least, 0
            time.sleep(max(0.0, begin - time.perf_counter()))
            while time.perf_counter() < begin + SECONDS:
                if not cached:
                    step += 1
                    budget = least + (number * THREADS + thread) * 10**6 + 37 * step
                start = time.perf_counter()
                try:
                    client.solve(ProfileProblem(digest, TotalBytes(budget), loss_model="relative"))
                except Exception as error:  # noqa: BLE001  # counted and shown
                    failures.append(repr(error))
                else:
                    latencies.append(1000 * (time.perf_counter() - start))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, failures


class HealthWatch:
    """Calls the server's health check every 20 ms while it is open.

    `latencies` are those of the answers; `late` is how much later than planned the watching process woke up, which is
    what the machine itself costs at that time. Both in ms.
    """

    def __init__(self, address: str) -> None:
        self.latencies: list[float] = []
        self.late: list[float] = []
        self._ours, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_watch, args=(address, theirs))

    def __enter__(self) -> Self:
        self._process.start()
        self._ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send("enough")
        self.latencies, self.late = self._ours.recv()
        self._process.join()


def _watch(address: str, line: Connection) -> None:
    latencies, late = [], []
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest())
        line.send("ready")
        while not line.poll():
            late += [each - 1000 * PAUSE for each in times(lambda _: time.sleep(PAUSE), 1)]
            latencies += times(lambda _: stub.Check(health_pb2.HealthCheckRequest()), 1)
    line.recv()
    line.send((latencies, late))


def times(ask: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    found = []
    for index in range(count):
        start = time.perf_counter()
        ask(index)
        found.append(1000 * (time.perf_counter() - start))
    return found


def children(process: int) -> list[int]:
    """A process and all below it, as far as they have not ended meanwhile."""
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in task.read_text().split():
                found += children(int(child))
    return found


def resident(process: int) -> float:
    """MiB of a process and all below it, shared pages counted in proportion."""
    total = 0
    for each in children(process):
        with suppress(FileNotFoundError, ProcessLookupError):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            total += int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
    return total / 1024
