"""Gram statistics: how the inputs of a product vary together, and how much the model depends on its outputs together.

Rules
- An entry of inputs is the mean of x xᵀ. Inputs are scaled to unit length before they are counted, but for those that a
  model depends on (attention sinks, massive activations): see `collect`.
- An entry of outputs is the mean of g gᵀ over the gradients g at the outputs of one tensor: see `outputs`.
- The rows of the embedding and of the output head are as many as the vocabulary. What a change of any row does to the
  loss is an entry of its own, of curvature, which takes the place of inputs: see `outputs`.
- Weights multiplied with the same inputs (query, key and value; gate and up) share one entry of inputs.
- A matrix wider than `WIDEST` is kept as blocks along its diagonal; columns of different blocks count as unrelated.
- A part of the inputs is held out: a sample of them is kept as rows, on which compensation is tested per tensor.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Float32, Int32, Int64

from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.tensors import Tensor

WIDEST: Final = 8192
"""Columns of the widest block of inputs: 256 MiB as float32."""
_BLOCK_OF_TYPES: Final = 256  # blocks end where blocks of all quant types end


@dataclass(frozen=True, slots=True)
class Columns:
    """A range of columns, `first` up to but not including `last`."""

    first: int
    last: int

    @property
    def packed(self) -> int:
        """Values of the upper triangle of the range's Gram matrix."""
        width = self.last - self.first
        return width * (width + 1) // 2

    @property
    def square(self) -> int:
        """Values of the whole Gram matrix of the range."""
        return (self.last - self.first) ** 2


def column_blocks(length: int, widest: int = WIDEST) -> tuple[Columns, ...]:
    """The blocks of a row of `length` columns: as few as needed, of nearly equal width.

    >>> column_blocks(512, widest=256)
    (Columns(first=0, last=256), Columns(first=256, last=512))
    >>> column_blocks(100)
    (Columns(first=0, last=100),)
    """
    count = -(-length // widest)
    step = -(-length // count)
    if count > 1:
        step = -(-step // _BLOCK_OF_TYPES) * _BLOCK_OF_TYPES
    return tuple(Columns(first, min(first + step, length)) for first in range(0, length, step))


def pack(square: Float32[np.ndarray, "width width"]) -> Float32[np.ndarray, " packed"]:
    """The upper triangle, row after row."""
    return np.concatenate([row[place:] for place, row in enumerate(square)])


def unpack(packed: Float32[np.ndarray, " packed"], width: int) -> Float32[np.ndarray, "width width"]:
    """The symmetric matrix of a packed upper triangle.

    >>> unpack(np.array([1, 2, 3], np.float32), 2).tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    square = np.empty((width, width), np.float32)
    start = 0
    for place in range(width):
        row = packed[start : start + width - place]
        square[place, place:] = row
        square[place:, place] = row
        start += row.size
    return square


_Array = TypeVar("_Array", bound=np.ndarray)


def spread(rows: _Array, count: int) -> _Array:
    """At most `count` rows, evenly spread.

    >>> spread(np.arange(5), 2).tolist()
    [1, 3]
    """
    count = min(count, len(rows))
    chosen: _Array = rows[((np.arange(count) + 0.5) * len(rows) / max(1, count)).astype(int)]
    return chosen


def interleaved(cut: Sequence[Int32[np.ndarray, "windows context"]]) -> Int32[np.ndarray, "windows context"]:
    """The windows of all texts, those of each spread evenly over the whole, so that every part has all kinds.

    >>> interleaved([np.zeros((2, 1), np.int32), np.ones((4, 1), np.int32)]).ravel().tolist()
    [1, 0, 1, 1, 0, 1]
    """
    places = np.concatenate([(np.arange(len(each)) + 0.5) / len(each) for each in cut])
    found: Int32[np.ndarray, "windows context"] = np.concatenate(cut)[np.argsort(places, kind="stable")]
    return found


USUAL_SQUARE: Final = 1.001
"""Largest squared length of a usual scaled input: 1, but for rounding. First and massive tokens are longer."""


@dataclass(frozen=True, eq=False)
class MatrixGram:
    """The statistics of the inputs (or outputs) of one matrix: of an expert, or of the tensor if it has no experts.

    `blocks` are mean Gram matrices along the diagonal, `tokens` the number of inputs, `held_out` inputs of other
    tokens.
    """

    blocks: tuple[Float32[np.ndarray, "width width"], ...]
    tokens: int
    held_out: Float32[np.ndarray, "inputs length"]

    @property
    def length(self) -> int:
        """Number of columns."""
        return sum(len(block) for block in self.blocks)

    def all_usual(self) -> Self:
        """The same on a scale on which no held-out input is longer than 1, so that all of them count as usual."""
        longest = float(np.square(self.held_out, dtype=np.float64).sum(axis=1).max(initial=0.0)) or 1.0
        blocks = tuple(block / np.float32(longest) for block in self.blocks)
        return replace(self, blocks=blocks, held_out=self.held_out / np.float32(longest**0.5))

    def columns(self) -> Iterator[Columns]:
        """The column range of each block."""
        first = 0
        for block in self.blocks:
            yield Columns(first, first + len(block))
            first += len(block)

    def energy(self, changes: Float32[np.ndarray, "rows length"]) -> float:
        """tr(ΔW G ΔWᵀ): the mean squared change of the outputs of all rows for a scaled input."""
        found = 0.0
        for columns, block in zip(self.columns(), self.blocks, strict=True):
            part = np.ascontiguousarray(changes[:, columns.first : columns.last])
            found += float(np.einsum("ij,ij->", part @ block, part, dtype=np.float64))
        return found

    def held_out_energies(self, changes: Float32[np.ndarray, "rows length"]) -> tuple[float, float]:
        """The same over the inputs that were held out, and over those among them of the usual length.

        0 without any; if all are longer than `USUAL_SQUARE`, the second is that of all too.
        """
        by_input = np.square(changes @ self.held_out.T, dtype=np.float64).sum(axis=0)
        usual = np.square(self.held_out, dtype=np.float64).sum(axis=1) <= USUAL_SQUARE
        counted = by_input[usual] if usual.any() else by_input
        return float(by_input.sum()) / max(1, by_input.size), float(counted.sum()) / max(1, counted.size)


class GramSource(Protocol):
    """Where the entries of Gram statistics are kept: in a file, or in memory."""

    def matrix(self, entry: str, index: int) -> MatrixGram:
        """Matrix `index` of an entry."""
        ...


@dataclass(frozen=True, eq=False)
class Entry:
    """What is known of an entry without reading its matrices.

    `length` columns in blocks of at most `widest`; `tokens` counted and inputs `held_out` for each matrix, in `windows`
    windows.
    """

    length: int
    tokens: Int64[np.ndarray, " matrices"]
    windows: int
    held_out: Int64[np.ndarray, " matrices"]
    widest: int = WIDEST

    @property
    def blocks(self) -> tuple[Columns, ...]:
        """The columns of each block."""
        return column_blocks(self.length, self.widest)

    @classmethod
    def of(cls, parts: Sequence[MatrixGram], windows: int, widest: int = WIDEST) -> Self:
        """What is known of an entry with these matrices."""
        tokens, held_out = ([each.tokens for each in parts], [len(each.held_out) for each in parts])
        return cls(parts[0].length, np.array(tokens), windows, np.array(held_out), widest)


def output_entry(tensor: str) -> str:
    """The name of the entry with a tensor's outputs."""
    return f"{tensor}.outputs"


def weighed_entry(entry: str) -> str:
    """The name of the entry with the inputs of another one, weighed by gradients; only in states of collections."""
    return f"{entry}.weighed"


def curvature_entry(tensor: str) -> str:
    """The name of the entry with the curvature of the loss along the columns of an embedding or head."""
    return f"{tensor}.curvature"


@dataclass(frozen=True, eq=False)
class Gram:
    """Gram statistics of a model's products.

    `entries` of inputs are named by one of the tensors that have them, `shared` maps every tensor to its entry; the
    tensors in `outputs` have entries of outputs too. `texts` are the names of the calibration texts, in `windows`
    windows of `context` tokens; `model` is the fingerprint of the model that ran. `sequences` are the tokens of these
    windows, on which blocks can be rounded one after the other; None in files that have none. The state of an
    interrupted collection is `unfinished`: its matrices of the entries that are `growing` are sums, no means, so that
    it goes on with the same bits. `known_digest` is the digest that was stored. Raises InvalidInput if an entry is
    missing.
    """

    entries: Mapping[str, Entry]
    shared: Mapping[str, str]
    source: GramSource
    texts: tuple[str, ...]
    windows: int
    context: int
    model: str
    where: str = "the Gram statistics"
    outputs: frozenset[str] = frozenset()
    unfinished: bool = False
    known_digest: str = ""
    sequences: Int32[np.ndarray, "windows context"] | None = None
    growing: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", MappingProxyType(dict(sorted(self.entries.items()))))
        object.__setattr__(self, "shared", MappingProxyType(dict(sorted(self.shared.items()))))
        needed = [*self.shared.items(), *((name, output_entry(name)) for name in sorted(self.outputs))]
        lost = [name for name, entry in needed if entry not in self.entries and not self.unfinished]
        raise_faults([Fault(name, f"has no statistics in {self.where}: the file is damaged") for name in lost])

    def entry_of(self, tensor: Tensor) -> str | None:
        """The name of the entry with this tensor's inputs; None if there is none."""
        return self.shared.get(tensor.name)

    def tokens(self, tensor: Tensor) -> Int64[np.ndarray, " matrices"]:
        """Inputs counted for each matrix of the tensor; zeros where nothing is known."""
        entry = self.entry_of(tensor)
        return np.zeros(tensor.matrices, np.int64) if entry is None else self.entries[entry].tokens

    def check_against(self, fingerprint: str, tensors: Sequence[Tensor]) -> Self:
        """These statistics, if they are of the model with this fingerprint and these tensors.

        Raises InvalidInput if they are of another model, or of a collection that was interrupted.
        """
        self.require_finished()
        if self.model != fingerprint:
            what = "was collected from another model (weights or tensors differ); collect it from this one"
            raise InvalidInput(Fault(self.where, what))
        by_name = {tensor.name: tensor for tensor in tensors}
        faults = []
        for name, entry in self.shared.items():
            tensor, known = by_name.get(name), self.entries[entry]
            if tensor is None:
                faults.append(Fault(name, f"in {self.where}, but not a tensor of this model"))
            elif (tensor.row_length, tensor.matrices) != (known.length, known.tokens.size):
                shape = f"{known.tokens.size} matrices of {known.length} columns"
                faults.append(Fault(name, f"has {shape} in {self.where}, not those of this model"))
        for name in sorted(self.outputs):
            tensor, known = by_name.get(name), self.entries[output_entry(name)]
            if tensor is None or (tensor.rows, tensor.matrices) != (
                known.length * known.tokens.size,
                known.tokens.size,
            ):
                faults.append(Fault(name, f"has other outputs in {self.where} than in this model"))
        raise_faults(faults)
        return self

    def require_finished(self) -> None:
        """Raise InvalidInput if the collection was interrupted."""
        if self.unfinished:
            what = "is the state of an interrupted collection; run `imatrix collect` again to finish it"
            raise InvalidInput(Fault(self.where, what))

    def digest(self) -> str:
        """SHA-256 of everything that quantization depends on; equal digests mean equal statistics."""
        if self.known_digest:
            return self.known_digest
        state = hashlib.sha256(b"raq gram 2\0")
        for name, entry in self.entries.items():
            state.update(f"{name}\0{entry.length}\0{entry.widest}\0".encode() + entry.tokens.astype("<i8").tobytes())
            for index in range(entry.tokens.size):
                found = self.source.matrix(name, index)
                for block in found.blocks:
                    state.update(block.astype("<f4").tobytes())
                state.update(found.held_out.astype("<f4").tobytes())
        lines = [*(f"{name}={entry}\0" for name, entry in self.shared.items()), *sorted(self.outputs)]
        state.update("".join(lines).encode())
        if self.sequences is not None:
            state.update(self.sequences.astype("<i4").tobytes())
        return state.hexdigest()


@dataclass(frozen=True, eq=False)
class InMemory:
    """Entries in memory; those that are not are taken from another source."""

    matrices: Mapping[str, Sequence[MatrixGram]]
    others: GramSource | None = None

    def matrix(self, entry: str, index: int) -> MatrixGram:
        """Matrix `index` of an entry."""
        if entry not in self.matrices and self.others is not None:
            return self.others.matrix(entry, index)
        return self.matrices[entry][index]
