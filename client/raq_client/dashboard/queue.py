"""The queue: one job at a time, each in processes of its own, followed by their logs."""

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from raq_client.dashboard import runner
from raq_client.dashboard.ask import child_environment
from raq_client.dashboard.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job, Jobs
from raq_client.dashboard.log import JobLog
from raq_client.dashboard.refusal import Refusal

SECONDS_BETWEEN_LOOKS: Final = 0.25
LOGS_KEPT: Final = 100
GOOD_CODES: Final = (0, 3, 6)
"""Exit codes of work that was done: also where a limit stopped the search, or a check was not passed."""


class Queue:
    """The jobs of a folder and their processes.

    `publish` is called with every change: the job as plain data.
    """

    def __init__(self, folder: Path, state: Path, jobs: Jobs, publish: Callable[[str, Any], None]) -> None:
        self._folder, self._state, self._publish = folder, state, publish
        self.jobs = jobs
        self._logs: dict[int, JobLog] = {}

    async def run(self) -> None:
        """Start and follow jobs until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def look(self) -> None:
        """Follow what runs; start the next job if nothing does."""
        unfinished = self.jobs.unfinished()
        running = [job for job in unfinished if job.state == RUNNING]
        for job in running:
            self._follow(job)
        waiting = [job for job in unfinished if job.state == QUEUED]
        if not running and waiting:
            self._start(waiting[0])

    def add(self, action: str, command: Sequence[str], output: Sequence[str]) -> Job:
        """Put a job at the end of the queue. Raises Refusal if another unfinished job writes one of its files."""
        for other in self.jobs.unfinished():
            both = sorted(set(other.output) & set(output))
            if both:
                raise Refusal(f"{both[0]}: is being written by job {other.id}; name another file, or cancel it", 409)
        job = self.jobs.add(action, command, output)
        self._tell(job.id)
        return job

    def cancel(self, number: int) -> None:
        """End a job, or take it out of the queue."""
        self.jobs.cancel(self._known(number).id)
        runner.stop(self.folder_of(number))
        self._tell(number)

    def retry(self, number: int) -> Job:
        """The same command again, at the end of the queue."""
        job = self._known(number)
        return self.add(job.action, job.command, job.output)

    def move(self, number: int, by: int) -> None:
        """Move a waiting job forward (-1) or back (1)."""
        self.jobs.move(self._known(number).id, by)
        self._publish("queue", [job.id for job in self.jobs.unfinished()])

    def folder_of(self, number: int) -> Path:
        """The folder of a job's log and result."""
        return self._state / "jobs" / str(number)

    def view(self, job: Job) -> dict[str, Any]:
        """A job as plain data, with what its log says."""
        return {
            "id": job.id,
            "action": job.action,
            "command": shown(job.command),
            "output": job.output,
            "state": "ending" if job.cancelled and job.state == RUNNING else job.state,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
            "code": job.code,
            "error": job.error,
            **self._log(job.id).view(),
        }

    def _known(self, number: int) -> Job:
        job = self.jobs.get(number)
        if job is None:
            raise Refusal(f"there is no job {number}", 404)
        return job

    def _log(self, number: int) -> JobLog:
        """The log of a job, read up to its end."""
        log = self._logs.setdefault(number, JobLog())
        while log.read(self.folder_of(number) / runner.EVENTS):
            pass
        for old in sorted(self._logs)[:-LOGS_KEPT]:
            del self._logs[old]
        return log

    def _tell(self, number: int) -> None:
        self._publish("job", self.view(self._known(number)))

    def _start(self, job: Job) -> None:
        folder = self.folder_of(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        if not self.jobs.begin(job.id):
            return
        command = [sys.executable, "-m", "raq_client", *job.command, "--events"]
        try:
            runner.launch(folder, command, self._folder, child_environment())
        except OSError as error:
            self.jobs.end(job.id, FAILED, None, time.time(), f"can't be started: {error.strerror or error}")
        self._tell(job.id)

    def _follow(self, job: Job) -> None:
        folder = self.folder_of(job.id)
        alive = runner.is_alive(folder)  # asked before the log is read, which is complete once it is not
        if self._logs.setdefault(job.id, JobLog()).read(folder / runner.EVENTS):
            self._tell(job.id)
        if not alive:
            self._end(job, runner.exit_of(folder))
        elif job.cancelled:
            runner.stop(folder)

    def _end(self, job: Job, found: tuple[int, float] | None) -> None:
        if found is None:
            what = "its process was killed, or the machine went down; try it again"
            self.jobs.end(job.id, CANCELLED if job.cancelled else FAILED, None, time.time(), what)
        else:
            code, ended = found
            state = DONE if code in GOOD_CODES else CANCELLED if job.cancelled else FAILED
            error = None if state == DONE else self._log(job.id).failure(code)
            self.jobs.end(job.id, state, code, ended, error)
        self._tell(job.id)
        self._publish("folder", {})


def shown(command: Sequence[str]) -> str:
    """A command as a person types it.

    >>> shown(["solve", "-b", "5.0", "--pin", "blk.*=Q6_K"])
    "raq-client solve -b 5.0 --pin 'blk.*=Q6_K'"
    """
    return shlex.join(["raq-client", *command])
