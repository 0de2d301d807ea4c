"""Answers of raq's own commands, each in a process of its own: what a page shows is what `--json` prints.

Processes that have imported raq already wait for the next questions, so that an answer takes as long as its work.
"""

import asyncio
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raq_client.dashboard.refusal import Refusal

ANSWERS_KEPT: Final = 64
SECONDS: Final = 120.0
"""Longest time that a question may take."""
AT_ONCE: Final = 2
_ENDED: Final = "the dashboard is ending"
_READY: Final = 2
"""Processes that wait for a question: a page asks for a frontier and its presets together."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed: its exit code, its JSON (None if there is none), and its errors."""

    code: int
    value: Any
    errors: tuple[str, ...]

    def unwrap(self) -> Any:
        """The JSON. Raises Refusal with the command's own sentences where there is none."""
        if self.value is None:
            raise Refusal("\n".join(self.errors) or f"the command ended with exit code {self.code}")
        return self.value


class Asker:
    """Asks commands in a folder, and remembers answers until a file that they read has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[tuple[object, ...], Answer] = OrderedDict()
        self._ready: list[asyncio.subprocess.Process] = []
        self._running: set[asyncio.subprocess.Process] = set()
        self._is_ended = False
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def ask(self, arguments: Sequence[str], reads: Sequence[Path] = ()) -> Answer:
        """The answer of `raq ARGUMENTS`; the kept one if neither they nor the files it `reads` have changed."""
        key = (*arguments, *(_state(path) for path in (*reads, self._folder / "raq.toml")))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        async with self._limit:
            answer = await self._asked(list(arguments))
        self._kept[key] = answer
        while len(self._kept) > ANSWERS_KEPT:
            self._kept.popitem(last=False)
        return answer

    async def warm(self) -> None:
        """Start the processes that wait for the next questions."""
        self._ready = [each for each in self._ready if each.returncode is None]
        while len(self._ready) < _READY:
            self._ready.append(await self._start())

    def end(self) -> None:
        """End the questions that are being answered; further ones are refused."""
        self._is_ended = True
        for process in self._running:
            if process.returncode is None:
                process.kill()

    async def close(self) -> None:
        """End the processes that wait."""
        for process in self._ready:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._ready.clear()

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "raq_client.cli.worker",
            cwd=self._folder,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=child_environment(),
        )

    async def _asked(self, arguments: list[str]) -> Answer:
        if self._is_ended:
            raise Refusal(_ENDED, 503)
        waiting = [each for each in self._ready if each.returncode is None]
        process = waiting[0] if waiting else await self._start()
        self._ready = waiting[1:]
        self._running.add(process)
        try:
            question = json.dumps(arguments).encode()
            out, err = await asyncio.wait_for(process.communicate(question), SECONDS)
        except TimeoutError:
            raise Refusal(f"no answer within {SECONDS:.0f} s: {' '.join(arguments)}", 504) from None
        finally:
            self._running.discard(process)
            if process.returncode is None:
                process.kill()
                await process.wait()
            if not self._is_ended:
                await self.warm()
        if self._is_ended:
            raise Refusal(_ENDED, 503)
        return Answer(process.returncode or 0, _json(out), errors_in(err.decode(errors="replace").splitlines()))


def child_environment() -> dict[str, str]:
    """The environment of raq's processes: this one's, with plain UTF-8 text."""
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "120", "NO_COLOR": "1"}


def errors_in(lines: Sequence[str]) -> tuple[str, ...]:
    """The errors among the lines of `--events`; where there are none, the last line that is no event."""
    errors, others = [], []
    for line in lines:
        event = parse_event(line)
        if event is None:
            others.append(line)
        elif event["event"] == "error":
            errors.append(str(event.get("text", "")))
    spoken = [line for line in others if line.strip()]
    return tuple(errors or spoken[-1:])


def parse_event(line: str) -> dict[str, Any] | None:
    """An event of a command; None if the line is something else, as a traceback.

    >>> parse_event('{"event": "end", "code": 0}')
    {'event': 'end', 'code': 0}
    >>> parse_event("Traceback") is None
    True
    """
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _state(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), found.st_size, found.st_mtime_ns
