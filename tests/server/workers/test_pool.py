"""The pool by itself: a spare worker stands in, nothing is left over when it closes, at whatever moment."""

import asyncio
import gc
import os
from pathlib import Path

import pytest

from raq_server.metrics import Metrics
from raq_server.pool import Pool
from raq_server.processes import Worker
from raq_solver.errors import BackendFailure
from support.services import alive


def open_files() -> dict[str, str]:
    """The files and sockets that this process holds."""
    found = {}
    for file in Path("/proc/self/fd").iterdir():
        try:
            found[file.name] = str(file.readlink())
        except FileNotFoundError:  # the folder itself
            continue
    return found


def test_the_spare_stands_in_for_a_worker_that_is_killed() -> None:
    async def test() -> None:
        pool = Pool(1, 0, Metrics())
        await pool.open()
        async with pool.worker() as first:
            pid = first.pid
            first.working = True
        async with pool.worker() as second:  # with no place in the queue: it must be there at once
            assert second.pid != pid
        await pool.close()
        assert not alive(pid)

    asyncio.run(test())


@pytest.mark.parametrize("steps", [0, 1, 3, 10])
def test_closing_while_a_worker_is_replaced_leaves_nothing_open(steps: int) -> None:
    async def test() -> None:
        pool = Pool(1, 1, Metrics())
        await pool.open()
        async with pool.worker() as worker:
            worker.working = True
        for _ in range(steps):
            await asyncio.sleep(0.001)
        await pool.close()

    asyncio.run(test())  # the first starts the process that workers are forked from, which stays
    before = open_files()
    asyncio.run(test())
    gc.collect()
    assert open_files() == before


def test_closing_while_workers_are_started_leaves_nothing_open() -> None:
    async def test() -> None:
        pool = Pool(3, 1, Metrics())
        opening = asyncio.create_task(pool.open())
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(test())
    before = open_files()
    asyncio.run(test())
    gc.collect()
    assert open_files() == before


def test_a_worker_that_can_not_be_started_is_tried_again_and_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        pool = Pool(1, 1, Metrics())
        await pool.open()
        started, failures = Worker.start, iter([OSError("no more processes"), BackendFailure("ended")])

        async def failing(worker: Worker) -> None:
            await started(worker)
            for failure in failures:
                raise failure

        with monkeypatch.context() as patched:
            patched.setattr(Worker, "start", failing)
            for _ in range(2):
                async with pool.worker() as worker:
                    worker.working = True
            async with asyncio.timeout(60), pool.worker():
                pass
        await pool.close()

    asyncio.run(test())
    before = open_files()
    asyncio.run(test())
    gc.collect()
    assert open_files() == before


def test_large_frames_pass_in_both_directions() -> None:
    async def test() -> None:
        from raq_proto.v1 import solver_service_pb2
        from raq_server.frames import Tag, job_head

        worker = Worker()
        await worker.start()
        request = solver_service_pb2.SolveRequest()
        request.problem.table.tensors.extend("x" * 2**20 for _ in range(20))
        sizes = {"tensors": 1, "types": 1, "constraints": 1, "budgets": 1}
        head = job_head({"method": "Solve", "seconds": None, "sizes": sizes})
        await worker.send(Tag.JOB, head, request.SerializeToString())
        tag, content = await worker.receive()
        assert tag is Tag.ERROR
        assert b"20 are given; this server takes at most 1" in content
        assert not worker.working
        os.kill(worker.pid, 9)
        with pytest.raises(BackendFailure, match="out of memory"):
            await worker.receive()
        await worker.end()
        await worker.end()

    asyncio.run(test())
