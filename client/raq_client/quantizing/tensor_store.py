"""Quantized tensors kept by content: a tensor that was quantized before, by any build, is read instead of made again.

Rules
- The key of a tensor is a digest of everything that its bytes depend on: the source's bytes, type and shape, the new
  type, the importance of its columns, the Gram statistics, the kernels and the effort. Names, paths and times do not
  count, so tensors are shared between recipes, and a changed input is never mistaken for the old one.
- A kept tensor ends with the SHA-256 of its bytes; one that does not match it is made again.
- The store can be lost at any time: without room or permission tensors are quantized as if there were none.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
from jaxtyping import UInt8

from raq_client.files.partial_files import new_partial, remove_stale, remove_stale_in
from raq_client.models.model_file import CHUNK_WEIGHTS, ModelFile, row_chunks
from raq_client.quantizing.measure import kernels_digest
from raq_client.quantizing.rounding import Rounding
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

DEFAULT_MOST_BYTES: Final = 64 * 2**30
"""Default limit on the size of a store."""
_VERSION: Final = "2"
"""Changed whenever the same key would mean other bytes; older tensors are then not found."""
_DIGEST_BYTES: Final = 32
_KEPT_SHARE: Final = 0.9
"""Share of the limit that is left when a full store drops its oldest tensors, so that this happens seldom."""
_LOG = logging.getLogger(__name__)

Chunk = UInt8[np.ndarray, "rows size"]


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """The number of kept tensors and their bytes."""

    tensors: int
    size: int


class TensorStore:
    """Tensors in a folder, of at most `most_bytes` together; those that were not used for longest are dropped first."""

    def __init__(self, folder: Path, most_bytes: int = DEFAULT_MOST_BYTES) -> None:
        self.folder = folder
        self._most = most_bytes
        self._used: int | None = None
        self._counting = threading.Lock()  # several threads may keep tensors

    def read(self, key: str, row_bytes: int) -> Iterator[Chunk] | None:
        """The rows of a kept tensor, of `row_bytes` each; None if it is not kept, or damaged."""
        path = self._path(key)
        try:
            file = path.open("rb")
        except OSError:
            return None
        with ExitStack() as opened:
            opened.enter_context(file)
            size = _sound_size(file)
            if size is None or size % row_bytes:
                path.unlink(missing_ok=True)
                return None
            with suppress(OSError):
                os.utime(path)  # the time of last use
            opened.pop_all()
        return _rows_of(file, size, row_bytes)

    def keep(self, key: str, made: Iterator[Chunk]) -> Iterator[Chunk]:
        """The rows of a tensor as they are made; when all have passed, the tensor is kept."""
        with ExitStack() as opened:
            file = self._begin(key, opened)
            digest = hashlib.sha256()
            for chunk in made:
                data = np.ascontiguousarray(chunk).data
                digest.update(data)
                file = file and _written(file, data)
                yield chunk
            if file is not None and _written(file, memoryview(digest.digest())) is not None:
                self._finish(key, file)

    def usage(self) -> StoreUsage:
        """The number and size of all kept tensors."""
        sizes = [size for _, size, _ in self._files()]
        return StoreUsage(len(sizes), sum(sizes))

    def clean(self, keep_bytes: int = 0) -> StoreUsage:
        """Drop the tensors that were not used for longest until at most `keep_bytes` are left; what was dropped."""
        found = sorted(self._files())
        left = sum(size for _, size, _ in found)
        dropped = freed = 0
        for _, size, path in found:
            if left <= keep_bytes:
                break
            with suppress(OSError):
                path.unlink()
                dropped, freed, left = dropped + 1, freed + size, left - size
        for folder in self._folders():
            remove_stale_in(folder)
        self._used = left
        return StoreUsage(dropped, freed)

    def _begin(self, key: str, opened: ExitStack) -> BinaryIO | None:
        """A new file for a tensor; None if there can't be one."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale(path)
            file = opened.enter_context(new_partial(path))
        except OSError as error:
            _go_on_without(error)
            return None
        opened.callback(Path(file.name).unlink, missing_ok=True)
        return file

    def _finish(self, key: str, file: BinaryIO) -> None:
        try:
            file.flush()
            size = os.fstat(file.fileno()).st_size
            if size > self._most:
                return
            Path(file.name).replace(self._path(key))
        except OSError as error:
            _go_on_without(error)
            return
        with self._counting:
            self._used = self.usage().size if self._used is None else self._used + size
            if self._used > self._most:
                self.clean(int(_KEPT_SHARE * self._most))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _folders(self) -> Iterator[Path]:
        with suppress(OSError):
            yield from (folder for folder in self.folder.iterdir() if folder.is_dir())

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, size and path of every kept tensor."""
        for folder in self._folders():
            for path in folder.iterdir():
                if not path.name.startswith("."):
                    with suppress(OSError):
                        found = path.stat()
                        yield found.st_mtime_ns, found.st_size, path


@dataclass(frozen=True, eq=False)
class KeptTensors:
    """The tensors of a model in a store, in the form in which `quantize_model` asks for them.

    `reused` and `quantized` are the names of the tensors of either kind so far. `keys` are those of tensors whose bytes
    depend on more than `tensor_key` has.
    """

    store: TensorStore
    model: ModelFile
    reused: list[str] = field(default_factory=list)
    quantized: list[str] = field(default_factory=list)
    keys: Mapping[Tensor, str] = field(default_factory=dict)

    def under(self, keys: Mapping[Tensor, str]) -> Self:
        """The same, with these keys; names are added to the same lists."""
        return replace(self, keys=keys)

    def __call__(self, tensor: Tensor, wanted: QuantType, rounding: Rounding, made: Iterator[Chunk]) -> Iterator[Chunk]:
        """The rows of a tensor in a type: kept ones, or those that are `made`, which are then kept."""
        found = self.read(tensor, wanted, rounding)
        return self.keep(tensor, wanted, rounding, made) if found is None else found

    def read(self, tensor: Tensor, wanted: QuantType, rounding: Rounding) -> Iterator[Chunk] | None:
        """The rows of a tensor in a type, if they are kept."""
        found = self.store.read(self._key(tensor, wanted, rounding), wanted.size(tensor.row_length))
        if found is not None:
            self.reused.append(tensor.name)
        return found

    def keep(self, tensor: Tensor, wanted: QuantType, rounding: Rounding, made: Iterator[Chunk]) -> Iterator[Chunk]:
        """The rows of a tensor in a type as they are made; when all have passed, they are kept."""
        self.quantized.append(tensor.name)
        return self.store.keep(self._key(tensor, wanted, rounding), made)

    def _key(self, tensor: Tensor, wanted: QuantType, rounding: Rounding) -> str:
        return self.keys.get(tensor) or tensor_key(self.model, tensor, wanted, rounding)


def tensor_key(model: ModelFile, tensor: Tensor, wanted: QuantType, rounding: Rounding) -> str:
    """The digest of all that the bytes of a quantized tensor depend on. Raises InvalidInput if it can't be read."""
    columns = rounding.columns(tensor)
    feedback = "none"
    if rounding.compensation is not None:
        gram = rounding.compensation.gram
        entry = gram.entry_of(tensor)
        feedback = "none" if entry is None else f"{gram.digest()} {entry}"
    parts = (
        _VERSION,
        source_digest(model, tensor),
        tensor.source_type.name,
        str(tensor.shape),
        wanted.name,
        "none" if columns is None else hashlib.sha256(columns.astype("<f4").tobytes()).hexdigest(),
        feedback,
        kernels_digest(),
        rounding.effort,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def source_digest(model: ModelFile, tensor: Tensor) -> str:
    """SHA-256 of the stored bytes of a tensor."""
    state = hashlib.sha256()
    for _, first, last in row_chunks(tensor, CHUNK_WEIGHTS):
        state.update(model.stored(tensor, first, last).data)
    return state.hexdigest()


def _sound_size(file: BinaryIO) -> int | None:
    """The size of a kept tensor, after its bytes were compared with the digest at their end; None if they differ."""
    try:
        size = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
        if size < 0:
            return None
        digest, left = hashlib.sha256(), size
        while left and (data := file.read(min(left, CHUNK_WEIGHTS))):
            digest.update(data)
            left -= len(data)
        return size if file.read(_DIGEST_BYTES) == digest.digest() else None
    except OSError:
        return None


def _rows_of(file: BinaryIO, size: int, row_bytes: int) -> Iterator[Chunk]:
    with file:
        file.seek(0)
        step = max(1, CHUNK_WEIGHTS // row_bytes) * row_bytes
        for first in range(0, size, step):
            yield np.frombuffer(file.read(min(step, size - first)), np.uint8).reshape(-1, row_bytes)


def _written(file: BinaryIO, data: memoryview) -> BinaryIO | None:
    """The file after writing to it; None if there is no room."""
    try:
        file.write(data)
    except OSError as error:
        _go_on_without(error)
        return None
    return file


def _go_on_without(error: OSError) -> None:
    _LOG.warning("note: a quantized tensor can't be kept for later builds: %s", error.strerror or error)


def store_usage(folder: Path) -> StoreUsage:
    """The number and size of the tensors kept in a folder; 0 if there is none."""
    return TensorStore(folder).usage()


def clean_store(folder: Path, keep_bytes: int = 0) -> StoreUsage:
    """Drop kept tensors, those not used for longest first, until at most `keep_bytes` are left; what was dropped."""
    return TensorStore(folder).clean(keep_bytes)
