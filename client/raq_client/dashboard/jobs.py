"""The table of jobs: a SQLite file that outlives the dashboard."""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
UNFINISHED: Final = (QUEUED, RUNNING)

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, action TEXT NOT NULL, command TEXT NOT NULL, output TEXT NOT NULL,
    state TEXT NOT NULL, place REAL NOT NULL, created REAL NOT NULL, started REAL, ended REAL, code INTEGER,
    error TEXT, cancelled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS digests (
    name TEXT NOT NULL, size INTEGER NOT NULL, changed REAL NOT NULL, sha256 TEXT NOT NULL,
    PRIMARY KEY (name, size, changed));
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A job: the arguments of its command, what it writes (names in the folder), and how far it is.

    Times are seconds since 1970. `place` orders the queue, `code` is the exit code (negative: a signal), `cancelled`
    says that a person asked for its end.
    """

    id: int
    action: str
    command: tuple[str, ...]
    output: tuple[str, ...]
    state: str
    place: float
    created: float
    started: float | None
    ended: float | None
    code: int | None
    error: str | None
    cancelled: bool


class Jobs:
    """The jobs of a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._connection() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_TABLES)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=10)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous=NORMAL")  # enough with a journal ahead
        try:
            with db:
                yield db
        finally:
            db.close()

    def add(self, action: str, command: Sequence[str], output: Sequence[str]) -> Job:
        """Put a job at the end of the queue."""
        now = time.time()
        with self._connection() as db:
            cursor = db.execute(
                "INSERT INTO jobs (action, command, output, state, place, created) VALUES (?, ?, ?, ?, ?, ?)",
                (action, json.dumps(list(command)), json.dumps(list(output)), QUEUED, now, now),
            )
            return self._of(db.execute("SELECT * FROM jobs WHERE id = ?", (cursor.lastrowid,)).fetchone())

    def get(self, number: int) -> Job | None:
        """The job of that number."""
        with self._connection() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (number,)).fetchone()
        return None if row is None else self._of(row)

    def unfinished(self) -> list[Job]:
        """Jobs that run or wait, in the order of the queue."""
        with self._connection() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE state IN (?, ?) ORDER BY state = ? DESC, place", (*UNFINISHED, RUNNING)
            ).fetchall()
        return [self._of(row) for row in rows]

    def finished(self, most: int, before: int | None = None) -> list[Job]:
        """At most `most` ended jobs, the newest first; with `before` only those of smaller numbers."""
        with self._connection() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE state NOT IN (?, ?) AND id < ? ORDER BY id DESC LIMIT ?",
                (*UNFINISHED, 2**62 if before is None else before, most),
            ).fetchall()
        return [self._of(row) for row in rows]

    def begin(self, number: int) -> bool:
        """Take a job out of the queue to run it; False if another process has, or it was cancelled."""
        with self._connection() as db:
            return (
                db.execute(
                    "UPDATE jobs SET state = ?, started = ? WHERE id = ? AND state = ?",
                    (RUNNING, time.time(), number, QUEUED),
                ).rowcount
                == 1
            )

    def end(self, number: int, state: str, code: int | None, ended: float, error: str | None) -> None:
        """Write down how a job ended."""
        with self._connection() as db:
            db.execute(
                "UPDATE jobs SET state = ?, code = ?, ended = ?, error = ? WHERE id = ?",
                (state, code, ended, error, number),
            )

    def cancel(self, number: int) -> None:
        """Write down that a job is to end; one that waits ends now."""
        with self._connection() as db:
            db.execute("UPDATE jobs SET cancelled = 1 WHERE id = ?", (number,))
            db.execute(
                "UPDATE jobs SET state = ?, ended = ? WHERE id = ? AND state = ?",
                (CANCELLED, time.time(), number, QUEUED),
            )

    def move(self, number: int, by: int) -> None:
        """Move a waiting job one place forward (-1) or back (1) in the queue; at its end nothing happens."""
        with self._connection() as db:
            rows = db.execute("SELECT id, place FROM jobs WHERE state = ? ORDER BY place", (QUEUED,)).fetchall()
            numbers = [row["id"] for row in rows]
            at = numbers.index(number) if number in numbers else -1
            other = at + by
            if at >= 0 and 0 <= other < len(rows):
                swapped = ((rows[other]["place"], number), (rows[at]["place"], numbers[other]))
                db.executemany("UPDATE jobs SET place = ? WHERE id = ?", swapped)

    def digest(self, name: str, size: int, changed: float) -> str | None:
        """The SHA-256 of a file as it was of that size and time, if it has been computed."""
        with self._connection() as db:
            row = db.execute(
                "SELECT sha256 FROM digests WHERE name = ? AND size = ? AND changed = ?", (name, size, changed)
            ).fetchone()
        return None if row is None else str(row["sha256"])

    def keep_digest(self, name: str, size: int, changed: float, digest: str) -> None:
        """Remember a computed SHA-256."""
        with self._connection() as db:
            db.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (name, size, changed, digest))

    @staticmethod
    def _of(row: Any) -> Job:
        fields = dict(row)
        fields["command"] = tuple(json.loads(fields["command"]))
        fields["output"] = tuple(json.loads(fields["output"]))
        fields["cancelled"] = bool(fields["cancelled"])
        return Job(**fields)
