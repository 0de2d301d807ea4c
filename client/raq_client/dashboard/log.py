"""The log of a job: the events of its command, read as they are written, and what they come to."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from raq_client.dashboard.ask import parse_event

LINES_KEPT: Final = 200
"""Remarks and other lines that a page shows; the log has all."""
_LONGEST_READ: Final = 4 * 2**20


@dataclass
class JobLog:
    """What a log says so far: stages in order, each with how far it came, remarks, errors.

    `left` of a stage are seconds until it is done, None until that is known.
    """

    stages: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _offset: int = 0
    _rest: bytes = b""

    def read(self, path: Path) -> bool:
        """Take in what has been written since the last time; whether there was anything."""
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                raw = file.read(_LONGEST_READ)
        except OSError:
            return False
        self._offset += len(raw)
        *whole, self._rest = (self._rest + raw).split(b"\n")
        for line in whole:
            self.add(line.decode(errors="replace"))
        return bool(whole)

    def add(self, line: str) -> None:
        """Take in one line."""
        event = parse_event(line)
        match event:
            case None:
                self._say(line)
            case {"event": "progress", "stage": str(stage)}:
                if not self.stages or self.stages[-1]["stage"] != stage:
                    self.stages.append({})
                self.stages[-1].update({key: event.get(key) for key in ("stage", "done", "total", "left")})
            case {"event": "error"}:
                self.errors.append(str(event.get("text", "")))
            case {"event": "note"}:
                self._say(str(event.get("text", "")))

    def _say(self, text: str) -> None:
        if text.strip():
            self.lines = [*self.lines, text][-LINES_KEPT:]

    def failure(self, code: int) -> str:
        """Why the command did not succeed, in its own words where there are any."""
        if self.errors:
            return "\n".join(self.errors)
        if code < 0:
            return f"killed by signal {-code}"
        return self.lines[-1] if self.lines else f"ended with exit code {code}"

    def view(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"stages": self.stages, "lines": self.lines, "errors": self.errors}
