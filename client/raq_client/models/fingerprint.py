"""Fingerprints of models: a digest of every byte of their weights, computed once for a state of the files.

Rules
- Every byte counts: two models that differ in a single weight have different fingerprints.
- Files are read once for each state (device, inode, size, times of change), unless they were changed less than 2
  seconds ago, because clocks of file systems are coarse. Fingerprints of 64 MiB and more are kept in the cache folder.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

from raq_client.files.cache_file import CacheFile
from raq_client.files.reading import damage_named
from raq_solver.errors import Fault, InvalidInput

KEPT_FROM: Final = 64 * 2**20
"""Bytes from which a fingerprint is kept on disk; smaller files are hashed in less than a tenth of a second."""
_SETTLED_NS: Final = 2 * 10**9
_CHUNK: Final = 4 * 2**20
_KEPT_IN_PROCESS: Final = 64

State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes of a tensor: `label` is what it is (name, shape, type), the rest where it lies."""

    label: str
    path: Path
    offset: int
    size: int


def fingerprint_of(parts: Sequence[Part]) -> str:
    """SHA-256 over the labels and bytes of these parts. Raises InvalidInput if one can't be read whole."""
    states = tuple(map(_state, dict.fromkeys(part.path for part in parts)))
    settled = time.time_ns() - max((max(state[-2:]) for state in states), default=0) > _SETTLED_NS
    return _known(tuple(parts), states) if settled else _computed(parts)


@lru_cache(maxsize=_KEPT_IN_PROCESS)
def _known(parts: tuple[Part, ...], states: tuple[State, ...]) -> str:
    """The fingerprint of files in these states: from the cache folder, or computed and kept there."""
    if sum(part.size for part in parts) < KEPT_FROM:
        return _computed(parts)
    labels = hashlib.sha256("\0".join(f"{part.label} {part.size}" for part in parts).encode()).hexdigest()
    kept = CacheFile(user_cache_path("raq") / "fingerprints.jsonl")
    key = {"labels": labels, "states": [list(state) for state in states]}
    for found in kept.objects():
        if {name: found.get(name) for name in key} == key and isinstance(found.get("fingerprint"), str):
            return str(found["fingerprint"])
    fingerprint = _computed(parts)
    kept.add(key | {"fingerprint": fingerprint})
    return fingerprint


def _computed(parts: Sequence[Part]) -> str:
    state = hashlib.sha256(b"raq model 2\0")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        for part, digest in zip(parts, pool.map(_digest, parts), strict=True):
            state.update(part.label.encode() + b"\0" + digest)
    return state.hexdigest()


def _digest(part: Part) -> bytes:
    digest, left = hashlib.sha256(), part.size
    with damage_named(part.path), part.path.open("rb") as file:
        file.seek(part.offset)
        while left and (data := file.read(min(left, _CHUNK))):
            digest.update(data)
            left -= len(data)
    if left:
        raise InvalidInput(Fault(str(part.path), "has become shorter since it was opened"))
    return digest.digest()


def _state(path: Path) -> State:
    with damage_named(path):
        found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
