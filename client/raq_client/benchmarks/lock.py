"""The lock: what pins the data of each benchmark, and the data that was fetched, checked against it.

Rules
- An entry is made from the data itself (`pin`); data that differs from an entry is refused, never replaced silently.
- Rows are kept as canonical text in FOLDER/NAME.jsonl. Checking them needs no network.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from raq_client.benchmarks.registry import Benchmark
from raq_client.benchmarks.rows import NORMALISER, Row, canonical_text, content_digest, normalised, read_canonical
from raq_client.benchmarks.sources import get_file
from raq_client.files.atomic_file import atomic_file
from raq_client.files.user_files import read_user_file
from raq_solver.errors import Fault, InvalidInput, raise_faults

_FORMAT: Final = "raq-benchmarks-1"


class Entry(BaseModel):
    """What pins a benchmark: the file of the source, and the rows that raq makes of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    revision: str
    file: str
    file_sha256: str
    rows: int
    content_sha256: str
    normaliser: int
    licence: str

    def differences(self, other: "Entry") -> str:
        """The fields in which another entry differs, in words; empty if in none."""
        mine, theirs = self.model_dump(), other.model_dump()
        return ", ".join(f"{key} {mine[key]} → {theirs[key]}" for key in mine if mine[key] != theirs[key])


class _LockFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: Literal["raq-benchmarks-1"]
    benchmarks: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A benchmark's data as it is now: its entry and its canonical text."""

    entry: Entry
    text: bytes


def fetch(benchmark: Benchmark, folder: Path) -> Fetched:
    """Get a benchmark from its source. Raises InvalidInput if it can't be had, or has other rows than its form says."""
    found = get_file(benchmark.source, folder)
    rows = normalised(found.lines(), benchmark.form, found.file)
    text = canonical_text(rows)
    entry = Entry(
        source=found.source,
        revision=found.revision,
        file=found.file,
        file_sha256=hashlib.sha256(found.data).hexdigest(),
        rows=len(rows),
        content_sha256=content_digest(text),
        normaliser=NORMALISER,
        licence=benchmark.licence,
    )
    return Fetched(entry, text)


def read_lock(path: Path) -> dict[str, Entry]:
    """The entries of a lock file. Raises InvalidInput."""
    return read_user_file(path, _LockFile, "a lock of benchmarks").benchmarks


def write_lock(entries: Mapping[str, Entry], path: Path) -> None:
    """Write a lock file, sorted by name, replacing an older one."""
    content = {"format": _FORMAT, "benchmarks": {key: entries[key].model_dump() for key in sorted(entries)}}
    with atomic_file(path, force=True) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def check_drift(name: str, locked: Entry, found: Entry) -> None:
    """Raise InvalidInput if what was fetched is not what the lock says."""
    if differences := locked.differences(found):
        what = f"has drifted from the lock: {differences}; get the pinned version, or pin this one with lock --force"
        raise InvalidInput(Fault(name, what))


def store(name: str, fetched: Fetched, folder: Path) -> Path:
    """Write the rows of a benchmark into a folder."""
    path = rows_file(name, folder)
    with atomic_file(path, force=True, needed=len(fetched.text)) as file:
        file.write(fetched.text)
    return path


def locked_rows(name: str, locked: Entry, folder: Path) -> list[Row]:
    """The stored rows of a benchmark, if they are those of the lock. Works offline.

    Raises InvalidInput if there are none, if they differ, or if the lock is of another version of raq's forms.
    """
    path = rows_file(name, folder)
    if locked.normaliser != NORMALISER:
        what = f"was locked by version {locked.normaliser} of raq's forms, this is {NORMALISER}; lock it again"
        raise InvalidInput(Fault(name, what))
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInput(Fault(name, f"there is no {path}; get it with bench fetch {name}")) from error
    except OSError as error:
        raise InvalidInput(Fault(str(path), f"can't be read: {error.strerror}")) from error
    digest = content_digest(text)
    if digest != locked.content_sha256:
        what = f"has drifted: {path} has the SHA-256 {digest[:12]}…, the lock {locked.content_sha256[:12]}…"
        raise InvalidInput(Fault(name, f"{what}; get it again with bench fetch {name}"))
    rows = read_canonical(text)
    assert len(rows) == locked.rows, "equal texts have equal numbers of rows"
    return rows


def locked_entries(lock: Path, names: Iterable[str]) -> dict[str, Entry]:
    """The lock's entries of these benchmarks. Raises InvalidInput for those that it lacks."""
    entries, wanted = read_lock(lock), tuple(names)
    what = f"is not in {lock}; pin it with bench lock"
    raise_faults([Fault(name, f"{what} {name}") for name in wanted if name not in entries])
    return {name: entries[name] for name in wanted}


def checked_rows(entries: Mapping[str, Entry], folder: Path) -> dict[str, list[Row]]:
    """The stored rows of all. Raises InvalidInput with the faults of all, as `locked_rows` does."""
    found: dict[str, list[Row]] = {}
    faults: list[Fault] = []
    for name, entry in entries.items():
        try:
            found[name] = locked_rows(name, entry, folder)
        except InvalidInput as error:
            faults += error.faults
    raise_faults(faults)
    return found


def rows_file(name: str, folder: Path) -> Path:
    """Where the rows of a benchmark are kept in a folder."""
    return folder / f"{name}.jsonl"
