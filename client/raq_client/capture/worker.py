"""The process that counts what passed the proxy, at low priority: the proxy never waits for it, nor dies with it.

It has the model, renders and counts exchanges in the order in which they ended, and writes the importance file at least
every SAVE_SECONDS while there is something new, every 50 windows, and at its end. What waits to be counted is kept in
memory, at most MOST_WAITING exchanges; further ones are left out and reported.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raq_client.capture.counting import Counter, resumed
from raq_client.capture.exchange import Exchange, UnreadableExchangeError, texts_of
from raq_client.engine import loading
from raq_client.importance.imatrix import Importance
from raq_client.importance.imatrix_file import write_importance
from raq_client.prompts.chats import Chat
from raq_client.prompts.template import ChatTemplate, require_template
from raq_solver.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

SAVE_SECONDS: Final = 60.0
MOST_WAITING: Final = 1024
_NICE: Final = 19
_SECONDS_TO_LOOK: Final = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker counts with, and the file that it writes."""

    model: Path
    output: Path
    context: int = 512
    threads: int = 0
    library: Path | None = None
    output_head: bool = False


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted so far: exchanges, their tokens, windows in the file; exchanges left out, by reason."""

    exchanges: int = 0
    tokens: int = 0
    windows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def without(self, reason: str) -> "Counted":
        """The same with one more exchange left out."""
        return replace(self, left_out={**self.left_out, reason: self.left_out.get(reason, 0) + 1})


class Worker:
    """The proxy's end: a process that has loaded its model. Must be closed.

    `before` is what an earlier capture has counted. Raises InvalidInput if the model can't be loaded or has no chat
    template, or if the output is another's.
    """

    def __init__(self, job: Job) -> None:
        resumed(job.output, job.model, job.context)  # mistakes are found before a process is started for them
        require_template(job.model, job.library)
        context = multiprocessing.get_context("spawn")
        self._job, self._too_many = job, 0
        self._waiting: queue.Queue[Exchange | None] = queue.Queue(MOST_WAITING)
        self._hurry, self._windows = context.Event(), context.Value("Q", 0)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(job, self._hurry, self._windows, theirs), daemon=True)
        with _signals_ignored():  # by the worker, from its first moment: it ends when this process does or says so
            self._process.start()
        theirs.close()
        self.before = self._received()
        threading.Thread(target=self._pass_on, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether it still counts. libllama aborts the process where it fails within."""
        return self._process.is_alive()

    @property
    def windows(self) -> int:
        """Windows counted so far, those of an earlier capture too."""
        return int(self._windows.value)

    def submit(self, exchange: Exchange) -> None:
        """Have an exchange counted; never waits."""
        with suppress(queue.Full):
            if self.is_alive:
                self._waiting.put_nowait(exchange)
                return
        self._too_many += 1

    def hurry(self) -> None:
        """Leave out what is still waiting."""
        self._hurry.set()

    def close(self) -> Counted:
        """Count what is waiting, write the file, end the process. Returns what was counted in all; called once.

        Raises InvalidInput if counting or writing failed.
        """
        self._waiting.put(None)
        found = self._received()
        self._process.join()
        for _ in range(self._too_many):
            found = found.without("more than could be counted")
        return found

    def _pass_on(self) -> None:
        """Send to the worker what is waiting, in a thread: a full pipe waits for it."""
        exchange: Exchange | None = Exchange("", b"", b"")
        while exchange is not None:
            exchange = self._waiting.get()
            with suppress(OSError):  # it has died, which `close` will say
                self._pipe.send(exchange)

    def _received(self) -> Counted:
        try:
            found: Counted | tuple[Fault, ...] = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            what = f"the process that counts has died ({self._process.exitcode}); {self._job.output} has what it saved"
            raise InvalidInput(Fault(str(self._job.model), what)) from None
        if isinstance(found, Counted):
            return found
        self._process.join()
        raise InvalidInput(found)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignore Ctrl-C and the end of the terminal in this block, and in the processes started in it for good."""
    ignored = (signal.SIGINT, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(job: Job, hurry: "Event", windows: "Synchronized[int]", proxy: Connection) -> None:
    """The process: sends what there was before, and what was counted in the end, or faults."""
    os.nice(_NICE)
    try:
        before = resumed(job.output, job.model, job.context)
        template = require_template(job.model, job.library)
        with loading.loaded(job.model, context=job.context, threads=job.threads, library=job.library) as engine:
            counting = _Counting(job, template, Counter(engine, before, output_head=job.output_head), windows)
            proxy.send(counting.counted)
            counting.run(proxy, hurry)
            counted = counting.end()
            with suppress(OSError):  # the proxy's process was killed; all that it had sent is counted
                proxy.send(counted)
    except InvalidInput as error:
        proxy.send(error.faults)


class _Counting:
    """The worker's state: what was counted, and whether the file has it all."""

    def __init__(self, job: Job, template: ChatTemplate, counter: Counter, windows: "Synchronized[int]") -> None:
        self._job, self._template, self._counter, self._windows = job, template, counter, windows
        self.counted = Counted(windows=counter.windows)
        self._windows.value = counter.windows
        self._saved_windows, self._saved_at = counter.windows, time.monotonic()

    def run(self, proxy: Connection, hurry: "Event") -> None:
        """Count until there is no more, or the proxy's process is gone."""
        with suppress(EOFError, ConnectionError):
            while True:
                if proxy.poll(_SECONDS_TO_LOOK):
                    exchange: Exchange | None = proxy.recv()
                    if exchange is None:
                        return
                    self._take(exchange, left_out=hurry.is_set())
                self._save_now_and_then()

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            with suppress(InvalidInput):  # a full disk may have room later; the last attempt reports it
                self._save()

    def end(self) -> Counted:
        """Write the file, and say what was counted."""
        self._save()
        return self.counted

    def _take(self, exchange: Exchange, *, left_out: bool) -> None:
        if left_out:
            self.counted = self.counted.without("left out at the end")
            return
        try:
            said = [self._template.render(each) if isinstance(each, Chat) else each for each in texts_of(exchange)]
            texts = [self._counter.tokens_of(each) for each in said]
        except UnreadableExchangeError as error:
            self.counted = self.counted.without(str(error))
            return
        except InvalidInput:  # not the message: it could hold a part of the text
            self.counted = self.counted.without("the chat template can't render it")
            return
        for tokens in texts:
            self._counter.add(tokens, self._write)
        self._windows.value = self._counter.windows
        self.counted = replace(
            self.counted,
            exchanges=self.counted.exchanges + 1,
            tokens=self._counter.tokens,
            windows=self._counter.windows,
        )

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._counter.windows > self._saved_windows:
            self._write(self._counter.importance())

    def _write(self, importance: Importance) -> None:
        write_importance(importance, self._job.output, force=True)
        self._saved_windows = importance.chunk_count
