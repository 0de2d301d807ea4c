"""Read and write `.gram` files: Gram statistics in GGUF.

For each entry there are F32 tensors: `NAME.gram`, the packed upper triangles of its blocks, a row for each matrix;
`NAME.tokens`; and `NAME.held_out`, the inputs that were held out, of one matrix after another, with `NAME.held_out_of`
the number of them by matrix. `sequences` has the tokens of the windows, as numbers. An entry is read when it is asked
for: the file of a large model does not fit in memory. Before the first is read, the bytes of the file are compared with
`raq.gram.file_sha256`: over the header, with zeros in place of this digest, and over the fingerprint of the tensors.
Files of earlier versions have none. The state of an interrupted collection has no `raq.gram.sha256`;
`raq.gram.growing` names the entries that are sums there, not yet divided by the number of tokens.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, Int64

from raq_client.compensation.gram import Entry, Gram, MatrixGram, column_blocks, pack, unpack
from raq_client.files.atomic_file import atomic_file
from raq_client.models.gguf_header import TensorInfo, Value, encode_header, padded, stored
from raq_client.models.model_file import ModelFile, open_model, read_header
from raq_solver.errors import Fault, InvalidInput, raise_faults

KIND: Final = "gram"
_DIGEST: Final = "raq.gram.file_sha256"
_NO_DIGEST: Final = "0" * 64
_MOST_COUNTED: Final = 2**53
_MOST_TOKENS: Final = 2**24
"""Numbers of tokens are below: float32 has every whole number there."""
_GRAM: Final = ".gram"
_TOKENS: Final = ".tokens"
_HELD_OUT: Final = ".held_out"
_HELD_OUT_OF: Final = ".held_out_of"
_SEQUENCES: Final = "sequences"
_ALIGNMENT: Final = 32
_F32: Final = 0
_F32_BYTES: Final = 4


def is_gram(path: Path) -> bool:
    """Whether a file has Gram statistics, by its header; False for a file that can't be read."""
    try:
        kind = read_header(path).metadata.get("general.type")
    except InvalidInput:
        return False
    return kind is not None and kind.decode() == KIND


def read_gram(path: Path | str) -> Gram:
    """Open a `.gram` file.

    Raises InvalidInput if it is not one, is cut off, or its parts do not fit together.
    """
    path = Path(path)
    file = open_model(path, kind=KIND)
    if file.value("general.type") != KIND:
        what = f"has no Gram statistics (general.type is {file.value('general.type') or 'model'}): give a file of"
        raise InvalidInput(Fault(str(path), f"{what} `raq-client imatrix collect --gram`"))
    texts, shared, entries = (file.value(f"raq.gram.{key}") for key in ("texts", "shared", "entries"))
    outputs = file.value("raq.gram.outputs")
    numbers = [file.value(f"raq.gram.{key}") for key in ("windows", "context")]
    if (
        not isinstance(texts, list)
        or not isinstance(shared, list)
        or not isinstance(entries, list)
        or not isinstance(outputs, list)
        or not all(isinstance(number, int) for number in numbers)
        or not all(isinstance(line, str) and "=" in line for line in shared)
    ):
        what = (
            "has not all of raq.gram.texts, shared, entries, outputs, windows and context: it is damaged or of another "
            "version"
        )
        raise InvalidInput(Fault(str(path), what))
    windows, context = (number if isinstance(number, int) else 0 for number in numbers)
    digest, growing = _progress(file)
    source = _Opened(file, _lengths(entries, path))
    return Gram(
        source.entries(),
        dict(str(line).split("=", 1) for line in shared),
        source,
        tuple(str(text) for text in texts),
        windows,
        context,
        str(file.value("raq.gram.model") or ""),
        str(path),
        frozenset(map(str, outputs)),
        unfinished=not digest,
        known_digest=digest,
        sequences=source.sequences(context),
        growing=growing,
    )


def _progress(file: ModelFile) -> tuple[str, frozenset[str]]:
    """The digest of finished statistics, or "" and the entries that are growing."""
    digest, growing = file.value("raq.gram.sha256"), file.value("raq.gram.growing")
    if digest:
        return str(digest), frozenset()
    if not isinstance(growing, list):
        what = "is the state of an interrupted collection by an earlier version of raq; remove it and collect again"
        raise InvalidInput(Fault(str(file.path), what))
    return "", frozenset(map(str, growing))


def _lengths(lines: Sequence[Value], path: Path) -> dict[str, tuple[int, int, int]]:
    """Columns, windows and width of blocks of every entry, from lines NAME=COLUMNS:WINDOWS:WIDEST."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"(.+)=([1-9]\d{0,8}):(\d{1,9}):([1-9]\d{0,8})", str(line))
        if match is None:
            raise InvalidInput(Fault(str(path), f"raq.gram.entries has {str(line)[:80]!r}: the file is damaged"))
        found[match[1]] = int(match[2]), int(match[3]), int(match[4])
    return found


def write_gram(gram: Gram, path: Path | str, *, force: bool = False) -> None:
    """Write Gram statistics. Raises InvalidInput if the file exists without `force`, or can't be written."""
    path = Path(path)
    infos: list[TensorInfo] = []
    offset = 0
    for name, shape in _shapes(gram):
        infos.append(TensorInfo(name, shape, _F32, offset))
        offset = padded(offset + _F32_BYTES * int(np.prod(shape, dtype=np.int64)), _ALIGNMENT)
    metadata = {
        "general.type": stored(KIND),
        "raq.gram.model": stored(gram.model),
        "raq.gram.sha256": stored("" if gram.unfinished else gram.digest()),
        "raq.gram.texts": stored(list(gram.texts)),
        "raq.gram.windows": stored(gram.windows),
        "raq.gram.context": stored(gram.context),
        "raq.gram.entries": stored(
            [f"{name}={each.length}:{each.windows}:{each.widest}" for name, each in gram.entries.items()]
        ),
        "raq.gram.outputs": stored(sorted(gram.outputs)),
        "raq.gram.shared": stored([f"{name}={entry}" for name, entry in gram.shared.items()]),
    }
    if gram.unfinished:
        metadata["raq.gram.growing"] = stored(sorted(gram.growing))
    assert gram.unfinished or not gram.growing, "sums that still grow are no statistics"
    header = encode_header({**metadata, _DIGEST: stored(_NO_DIGEST)}, infos, _ALIGNMENT)
    with atomic_file(path, force=force, needed=len(header) + offset) as file:
        file.write(header)
        for data in _data(gram):
            file.write(data)
        file.flush()
        digest = _file_digest(header, open_model(file.name, kind=KIND))
        file.seek(0)
        file.write(encode_header({**metadata, _DIGEST: stored(digest)}, infos, _ALIGNMENT))


def _file_digest(header: bytes, written: ModelFile) -> str:
    """The digest of a file with this header, which has zeros in its place."""
    return hashlib.sha256(header + written.fingerprint().encode()).hexdigest()


def _shapes(gram: Gram) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of the file, in the order of `_data`."""
    for name, entry in gram.entries.items():
        matrices = entry.tokens.size
        packed = sum(columns.packed for columns in entry.blocks)
        held_out = int(entry.held_out.sum())
        yield name + _GRAM, (packed, matrices)
        yield name + _TOKENS, (matrices,)
        yield name + _HELD_OUT_OF, (matrices,)
        if held_out:
            yield name + _HELD_OUT, (entry.length, held_out)
    if gram.sequences is not None:
        yield _SEQUENCES, gram.sequences.shape[::-1]


def _data(gram: Gram) -> Iterator[bytes]:
    for name, entry in gram.entries.items():
        held_out: list[bytes] = []
        written = 0
        for index in range(entry.tokens.size):
            matrix = gram.source.matrix(name, index)
            held_out.append(matrix.held_out.astype("<f4").tobytes())
            for block in matrix.blocks:
                data = pack(block).astype("<f4").tobytes()
                written += len(data)
                yield data
        yield bytes(padded(written, _ALIGNMENT) - written)
        yield _whole(entry.tokens)
        yield _whole(entry.held_out)
        yield _whole(np.frombuffer(b"".join(held_out), "<f4"))
    if gram.sequences is not None:
        yield _whole(gram.sequences)


def _whole(values: np.ndarray) -> bytes:
    data = values.astype("<f4").tobytes()
    return data.ljust(padded(len(data), _ALIGNMENT), b"\0")


@dataclass(frozen=True, eq=False)
class _Opened:
    """An opened file as a source of entries."""

    file: ModelFile
    lengths: Mapping[str, tuple[int, int, int]]

    def entries(self) -> dict[str, Entry]:
        """All entries. Raises InvalidInput for every one whose parts are missing or do not fit together."""
        tensors = {tensor.name: tensor for tensor in self.file.tensors}
        found, faults = {}, []
        for name, (length, windows, widest) in self.lengths.items():
            parts = [tensors.get(name + ending) for ending in (_GRAM, _TOKENS, _HELD_OUT_OF)]
            if any(part is None for part in parts):
                faults.append(Fault(name, f"is incomplete in {self.file.path}: the file is damaged"))
                continue
            tokens, counts = self._counts(name + _TOKENS), self._counts(name + _HELD_OUT_OF)
            inputs, packed = tensors.get(name + _HELD_OUT), tensors[name + _GRAM]
            kept = (0, length) if inputs is None else (inputs.rows, inputs.row_length)
            of_packed = tokens.size, sum(columns.packed for columns in column_blocks(length, widest))
            if (
                (packed.rows, packed.row_length) != of_packed
                or kept != (counts.sum(), length)
                or (counts.size != tokens.size)
            ):
                faults.append(Fault(name, f"has parts of different shapes in {self.file.path}: the file is damaged"))
                continue
            found[name] = Entry(length, tokens, windows, counts, widest)
        raise_faults(faults)
        return found

    def sequences(self, context: int) -> Int32[np.ndarray, "windows context"] | None:
        """The tokens of the windows; None if the file has none. Raises InvalidInput if they are no tokens."""
        found = {tensor.name: tensor for tensor in self.file.tensors}.get(_SEQUENCES)
        if found is None:
            return None
        if found.row_length != context:
            what = f"has sequences of {found.row_length} tokens, not {context}: the file is damaged"
            raise InvalidInput(Fault(str(self.file.path), what))
        return self._counts(_SEQUENCES, _MOST_TOKENS).reshape(found.rows, context).astype(np.int32)

    def _counts(self, name: str, most: int = _MOST_COUNTED) -> Int64[np.ndarray, " matrices"]:
        values = self.file.weights(self.file.tensor(name)).ravel()
        if not ((values >= 0) & (values < most) & (values == np.floor(values))).all():
            raise InvalidInput(Fault(name, f"counts in {self.file.path} are no numbers of tokens: the file is damaged"))
        return values.astype(np.int64)

    def matrix(self, entry: str, index: int) -> MatrixGram:
        """Matrix `index` of an entry, read from the file.

        Raises InvalidInput if a value is not finite, or if the file is not as it was written.
        """
        self._require_undamaged  # noqa: B018
        packed = self._rows(entry + _GRAM, index, index + 1)[0]
        length, _, widest = self.lengths[entry]
        tokens, counts = self._counts(entry + _TOKENS), self._counts(entry + _HELD_OUT_OF)
        start = 0
        blocks = []
        for columns in column_blocks(length, widest):
            blocks.append(unpack(packed[start : start + columns.packed], columns.last - columns.first))
            start += columns.packed
        first = int(counts[:index].sum())
        held_out = np.zeros((0, length), np.float32)
        if counts[index]:
            held_out = self._rows(entry + _HELD_OUT, first, first + int(counts[index]))
        return MatrixGram(tuple(blocks), int(tokens[index]), held_out)

    @cached_property
    def _require_undamaged(self) -> None:
        """Raise InvalidInput if the bytes of the file are not those that were written; checked once."""
        digest, path = self.file.value(_DIGEST), self.file.path
        if not digest:
            return
        with path.open("rb") as opened:
            header = opened.read(read_header(path).data_start)
        header = header.replace(str(digest).encode(), _NO_DIGEST.encode(), 1)
        if _file_digest(header, self.file) != digest:
            finished = self.file.value("raq.gram.sha256")
            do = "copy it again, or collect it again" if finished else "remove it, and the collection begins again"
            raise InvalidInput(Fault(str(path), f"is damaged: its bytes are not those that were written; {do}"))

    def _rows(self, name: str, first: int, last: int) -> Float32[np.ndarray, "rows values"]:
        values = self.file.weights(self.file.tensor(name), first, last)
        if not np.isfinite(values).all():
            raise InvalidInput(Fault(name, f"has values that are not finite in {self.file.path}; collect it again"))
        return values
