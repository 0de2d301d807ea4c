"""Split models: which tensors go into which file, and what the files are called.

The names and the keys `split.*` are those of llama-gguf-split, so libllama loads the first file and finds the others.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from raq_client.models.gguf_header import StoredValue
from raq_client.models.model_file import ModelFile, shard_stem
from raq_solver.errors import Fault, InvalidInput

MOST_FILES: Final = 500
"""Files of one model at most: all of them are open until the last is complete."""
_UNITS: Final = {"K": 10**3, "M": 10**6, "G": 10**9}
_U16: Final = 2
_I32: Final = 5
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG])B?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Split:
    """How an output is split: into files of at most `most_bytes` each or, if that is None, as its source is."""

    most_bytes: int | None = None


def parse_split_size(text: str) -> int:
    """The bytes in a size such as `4G`, `500M` or `4.5GB`; G is 10^9 bytes, as for llama-gguf-split.

    Raises InvalidInput for anything else, and for zero.

    >>> parse_split_size("4.5G"), parse_split_size("500M")
    (4500000000, 500000000)
    """
    found = _SIZE.fullmatch(text.strip())
    size = int(Fraction(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if not size:
        raise InvalidInput(Fault(text, "is not a size of files; write it as 500M or 4G (10^9 bytes)"))
    return size


def split_paths(out: Path, count: int) -> tuple[Path, ...]:
    """The paths of the files of a model named `out`, or whose first file has that name.

    >>> [path.name for path in split_paths(Path("m.gguf"), 2)]
    ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
    """
    stem = shard_stem(out.name) or out.name.removesuffix(".gguf")
    return tuple(out.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def split_by_size(sizes: Sequence[int], most: int, *, first: int = 0, later: int = 0) -> tuple[range, ...]:
    """The consecutive parts, as ranges of indices, of things of these sizes, each part of at most `most` in all.

    A part holds as much as fits. `first` and `later` are taken in the first and in each later part beforehand; the
    first part may be left without things. Raises InvalidInput if `first` or one thing does not fit into a part.

    >>> split_by_size([5, 3, 4, 4], 8)
    (range(0, 2), range(2, 4))
    """
    largest = max([first, *(later + size for size in sizes)])
    if largest > most:
        what = f"files of {most:,} bytes are too small: the largest tensor or the metadata take {largest:,}"
        raise InvalidInput(Fault("--split-max-size", f"{what}; give at least that"))
    parts: list[range] = []
    begin, used = 0, first
    for index, size in enumerate(sizes):
        if used + size > most:
            parts.append(range(begin, index))
            begin, used = index, later
        used += size
    return (*parts, range(begin, len(sizes)))


def split_as(source: ModelFile) -> tuple[range, ...]:
    """The parts of the source's tensors that its files hold, in order; some may be empty."""
    parts, begin = [], 0
    for shard in source.shards:
        count = sum(source.shard_of(tensor) == shard for tensor in source.tensors)
        parts.append(range(begin, begin + count))
        begin += count
    return tuple(parts)


def split_keys(number: int, count: int, tensors: int) -> dict[str, StoredValue]:
    """The metadata of file `number` (from 0) of `count`, of a model of that many tensors."""
    return {
        "split.no": StoredValue(_U16, struct.pack("<H", number)),
        "split.count": StoredValue(_U16, struct.pack("<H", count)),
        "split.tensors.count": StoredValue(_I32, struct.pack("<i", tensors)),
    }
