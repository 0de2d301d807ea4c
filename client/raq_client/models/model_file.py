"""Model files in GGUF: their tensors, and their weights a few rows at a time.

The header is read through a memory map; weights are read into arrays of exactly the requested rows. Reading the data
through the map would count every page touched as memory of this process, and a file that shrinks meanwhile would
kill the process instead of raising an error.
"""

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8

import raq_native
from raq_client.files.names import readable
from raq_client.files.reading import check_readable
from raq_client.models.fingerprint import Part, fingerprint_of
from raq_client.models.gguf_header import MAGIC, Header, StoredValue, TensorInfo, Value, parse_header
from raq_client.models.sources import local_model
from raq_solver.errors import Fault, InvalidInput, UnknownTensor, near_misses, raise_faults
from raq_solver.quant_types import QuantType, stored_type_by_ggml_id
from raq_solver.tensors import Tensor

_SHARD: Final = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_SPLIT_KEYS: Final = ("split.no", "split.count", "split.tensors.count")
_OTHER_KINDS: Final = {
    "imatrix": "an importance file, not a model; give it with --imatrix",
    "adapter": "a LoRA adapter, not a model; merge it into its model with llama-export-lora first",
}
NO_TENSORS: Final = "holds no tensors, a vocabulary at most; give the file that has the model's weights"
_NUMPY_TYPES: Final = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_NATIVE: Final = frozenset(known.name for known in raq_native.QUANT_TYPES)

_HEADERS_KEPT: Final = 16
CHUNK_WEIGHTS: Final = 4 * 2**20
"""Weights quantized at a time: 16 MiB as float32."""


@dataclass(frozen=True, slots=True)
class _Place:
    shard: Path
    offset: int


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model, in one GGUF file or several shards.

    `metadata` is from the first shard, without the keys that describe the split. `empty` are entries of the header
    without elements, each with the number of `tensors` before it: nothing to quantize, but copies keep them.
    """

    path: Path
    shards: tuple[Path, ...]
    metadata: Mapping[str, StoredValue]
    tensors: tuple[Tensor, ...]
    alignment: int
    _places: Mapping[str, _Place]
    empty: tuple[tuple[int, TensorInfo], ...] = ()

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name. Raises UnknownTensor with the nearest names."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        what = f"no tensor named {name}{near_misses(name, self._places)}"
        raise UnknownTensor(Fault(str(self.path), what))

    def value(self, key: str) -> Value | None:
        """The metadata value of that key, or None."""
        found = self.metadata.get(key)
        return None if found is None else found.decode()

    @property
    def architecture(self) -> str:
        """`general.architecture`, or an empty string."""
        return str(self.value("general.architecture") or "")

    @property
    def name(self) -> str:
        """`general.name`, or else the name of the file."""
        return str(self.value("general.name") or readable(self.path.stem))

    def architecture_value(self, key: str) -> Value | None:
        """The value of a key under the architecture's name: `block_count` stands for `llama.block_count`."""
        return self.value(f"{self.architecture}.{key}")

    def shard_of(self, tensor: Tensor) -> Path:
        """The file that holds the tensor."""
        return self._places[tensor.name].shard

    def stored(self, tensor: Tensor, first_row: int = 0, last_row: int | None = None) -> UInt8[np.ndarray, "rows size"]:
        """The stored bytes of the rows from `first_row` up to but not including `last_row`."""
        last_row = tensor.rows if last_row is None else last_row
        assert 0 <= first_row <= last_row <= tensor.rows, f"{tensor.name} has no rows {first_row} to {last_row}"
        size = tensor.source_type.size(tensor.row_length)
        place = self._places[tensor.name]
        data = self._read(place.shard, place.offset + first_row * size, (last_row - first_row) * size)
        return data.reshape(-1, size)

    def _read(self, shard: Path, offset: int, size: int) -> UInt8[np.ndarray, " size"]:
        try:
            data = np.fromfile(shard, np.uint8, size, offset=offset)
        except OSError as error:
            raise InvalidInput(Fault(str(shard), f"can't be read: {error.strerror}")) from error
        if data.size != size:
            raise InvalidInput(Fault(str(shard), "has become shorter since it was opened"))
        return data

    def weights(
        self, tensor: Tensor, first_row: int = 0, last_row: int | None = None
    ) -> Float32[np.ndarray, "rows length"]:
        """The weights of these rows as float32, decoded from their stored type.

        Raises InvalidInput if raq can't decode that type.
        """
        blocks = self.stored(tensor, first_row, last_row)
        return to_weights(blocks, tensor.source_type, tensor.row_length)

    def renamed(self, names: Mapping[str, str], metadata: Mapping[str, StoredValue]) -> "ModelFile":
        """The model with only the tensors named in `names`, under their new names there, and with other metadata."""
        before = [0]  # the number of tensors kept among the first n
        for tensor in self.tensors:
            before.append(before[-1] + (tensor.name in names))
        return replace(
            self,
            metadata=metadata,
            tensors=tuple(replace(each, name=names[each.name]) for each in self.tensors if each.name in names),
            _places={names[name]: place for name, place in self._places.items() if name in names},
            empty=tuple(
                (before[at], replace(info, name=names[info.name])) for at, info in self.empty if info.name in names
            ),
        )

    @property
    def is_known_by_bytes(self) -> bool:
        """Whether the fingerprint is of every byte, so that a copy elsewhere has the same."""
        return True

    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes, types and bytes of all tensors; read once for each state of the files.

        It differs between models that differ in any weight. Raises InvalidInput if a file can't be read.
        """
        return fingerprint_of(
            [
                Part(f"{tensor.name} {tensor.shape} {tensor.source_type.name}", place.shard, place.offset, tensor.size)
                for tensor in self.tensors
                for place in (self._places[tensor.name],)
            ]
        )


def open_model(path: Path | str, *, header_only: bool = False, kind: str = "model") -> ModelFile:
    """Open a model by its file, by any of its shards, or by a name that `models.sources` resolves.

    With `header_only` the data may be missing (the first megabytes of a download, a sparse file). `kind` is the
    expected `general.type`: an importance file or an adapter given as a model is refused.
    Raises InvalidInput for every fault: not GGUF, cut off, unknown types, no tensors, overlapping tensors, missing
    shards, unreadable.
    """
    path = local_model(path)
    opened = read_header(path)
    require_kind(opened, str(path), kind)
    split = shard_count(opened) > 1
    shards = _shard_paths(path, shard_count(opened)) if split else (path,)
    headers = [read_header(shard) for shard in shards] if split else [opened]
    sizes = None if header_only else [shard.stat().st_size for shard in shards]
    return assembled(path, shards, headers, sizes, kind=kind)


def assembled(
    path: Path, shards: Sequence[Path], headers: Sequence[Header], sizes: Sequence[int] | None, *, kind: str = "model"
) -> ModelFile:
    """The model of these files with these headers; with their `sizes` in bytes it is checked that no file is cut off.

    Raises InvalidInput for every fault.
    """
    split = len(shards) > 1
    places: dict[Tensor, _Place] = {}
    empty: list[tuple[int, TensorInfo]] = []
    faults: list[Fault] = []
    for number, (shard, header) in enumerate(zip(shards, headers, strict=True)):
        empty += [(len(places) + before, info) for before, info in _empty(header)]
        offsets, shard_faults = tensors_of(header, str(shard))
        known = {tensor.name for tensor in places}
        shard_faults += [
            Fault(str(shard), f"the tensor {t.name} is in an earlier shard too") for t in offsets if t.name in known
        ]
        if sizes is not None and not shard_faults:
            shard_faults += _cut_off(shard, sizes[number], header, offsets)
        places |= {tensor: _Place(shard, offset) for tensor, offset in offsets.items()}
        faults += shard_faults
    announced = _count(headers[0], "split.tensors.count")
    held = len(places) + len(empty)
    if split and not faults and announced != held:
        faults.append(Fault(str(path), f"the shards hold {held} tensors, their header announces {announced}"))
    if not places and not faults and kind == "model":
        faults.append(Fault(str(path), NO_TENSORS))
    raise_faults(faults)
    metadata = {key: value for key, value in headers[0].metadata.items() if key not in _SPLIT_KEYS}
    by_name = {tensor.name: place for tensor, place in places.items()}
    return ModelFile(path, tuple(shards), metadata, tuple(places), headers[0].alignment, by_name, tuple(empty))


def tensors_of(header: Header, where: str) -> tuple[dict[Tensor, int], list[Fault]]:
    """The valid tensors of a header with the position of their data in the file, and the faults of the others.

    Entries without elements are left out.
    """
    offsets: dict[Tensor, int] = {}
    faults: list[Fault] = []
    for info in header.tensors:
        if info.is_empty:
            continue
        source_type = stored_type_by_ggml_id(info.ggml_id)
        if source_type is None:
            faults.append(Fault(where, f"{info.name} is stored in a type raq does not know (ggml {info.ggml_id})"))
        elif not source_type.fits(info.shape[0]):
            what = f"rows of {info.shape[0]} are not whole blocks of {source_type.name}: the header is damaged"
            faults.append(Fault(where, f"{info.name}: {what}"))
        elif info.offset % header.alignment:
            faults.append(Fault(where, f"{info.name} is not aligned to {header.alignment}: the header is damaged"))
        else:
            offsets[Tensor(info.name, info.shape, source_type)] = header.data_start + info.offset
    return offsets, faults + _overlaps(offsets, where)


def _empty(header: Header) -> Iterator[tuple[int, TensorInfo]]:
    """The entries without elements, each with the number of other entries before it."""
    before = 0
    for info in header.tensors:
        if info.is_empty:
            yield before, info
        before += not info.is_empty


def _overlaps(offsets: Mapping[Tensor, int], where: str) -> list[Fault]:
    """One fault if tensors overlap."""
    placed = sorted(offsets.items(), key=lambda one: one[1])
    found = [(one, other) for (one, at), (other, begin) in pairwise(placed) if at + one.size > begin]
    if not found:
        return []
    (one, other), more = found[0], len(found) - 1
    others = f", and so do {more} more pairs" if more else ""
    what = f"the data of {one.name} and {other.name} overlap{others}: the header is damaged"
    return [Fault(where, what)]


def shard_names(name: str, count: int) -> list[str]:
    """The names of all shards of a split model, given one of them; empty if `name` is not that of such a shard.

    >>> shard_names("big-00002-of-00003.gguf", 3)
    ['big-00001-of-00003.gguf', 'big-00002-of-00003.gguf', 'big-00003-of-00003.gguf']
    """
    found = _SHARD.fullmatch(name)
    if found is None or int(found["count"]) != count:
        return []
    return [f"{found['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def shard_stem(name: str) -> str:
    """The name of a split model, given that of one of its files; empty if `name` is not that of such a file.

    >>> shard_stem("big-00002-of-00003.gguf")
    'big'
    """
    found = _SHARD.fullmatch(name)
    return found["stem"] if found else ""


def shard_count(header: Header) -> int:
    """The number of shards of the model that a header belongs to, 1 if it is not split."""
    return max(1, _count(header, "split.count"))


def first_shard(path: Path, header: Header) -> Path:
    """The file to load with libllama: the first shard if `path` is one of several.

    Raises InvalidInput with every missing shard.
    """
    return _shard_paths(path, shard_count(header))[0] if shard_count(header) > 1 else path


def require_kind(header: Header, where: str, kind: str = "model") -> None:
    """Raise InvalidInput if a file is an importance file or an adapter instead of the expected `kind`."""
    stored_kind = header.metadata.get("general.type")
    found = "" if stored_kind is None else str(stored_kind.decode())
    if found != kind and found in _OTHER_KINDS:
        raise InvalidInput(Fault(where, _OTHER_KINDS[found]))


def to_weights(
    blocks: UInt8[np.ndarray, "rows size"], source_type: QuantType, row_length: int
) -> Float32[np.ndarray, "rows length"]:
    """Decode rows of stored bytes to weights. Raises InvalidInput if raq can't decode the type."""
    if source_type.name in _NUMPY_TYPES:
        return blocks.view(_NUMPY_TYPES[source_type.name]).astype(np.float32, copy=False)
    if source_type.name == "BF16":
        return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if source_type.name in _NATIVE:
        return raq_native.dequantize(source_type.name, blocks, row_length)
    # gguf is needed only here, and its import is slow.
    from gguf import GGMLQuantizationType, dequantize

    try:
        weights: Float32[np.ndarray, "rows length"] = dequantize(blocks, GGMLQuantizationType(source_type.ggml_id))
    except (NotImplementedError, ValueError):
        what = "weights stored in this type can't be read back; start from an F16 or BF16 file"
        raise InvalidInput(Fault(source_type.name, what)) from None
    return weights.reshape(-1, row_length)


def is_gguf(path: Path) -> bool:
    """Whether a file is GGUF, by its first bytes, whatever its name; also for one that a model hub stores by digest."""
    if not path.is_file():  # a pipe would lose these bytes
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """The header of one GGUF file; an unchanged file is parsed once per process.

    Raises InvalidInput if it can't be read or is not GGUF.
    """
    check_readable(path)
    try:
        found = path.stat()
        if found.st_size == 0:
            raise InvalidInput(Fault(str(path), "not a GGUF file (it is empty)"))
        return _parsed(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it needs more memory than there is"
        raise InvalidInput(Fault(str(path), f"can't be opened: {reason or error}")) from error


@lru_cache(maxsize=_HEADERS_KEPT)
def _parsed(path: Path, _state: tuple[int, ...]) -> Header:
    """The parsed header, cached; `_state` (device, inode, size, time of change) differs for a changed file."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        return parse_header(view, str(path))


def _shard_paths(path: Path, count: int) -> tuple[Path, ...]:
    paths = tuple(path.with_name(name) for name in shard_names(path.name, count))
    if not paths:
        what = f"one of {count} shards, but its name does not end in -0000N-of-{count:05}.gguf"
        raise InvalidInput(Fault(str(path), what))
    raise_faults([Fault(str(shard), "this shard of the model is missing") for shard in paths if not shard.exists()])
    return paths


def _cut_off(shard: Path, there: int, header: Header, offsets: Mapping[Tensor, int]) -> list[Fault]:
    needed = max([header.data_start, *(offset + tensor.size for tensor, offset in offsets.items())])
    if there >= needed:
        return []
    what = f"the file is cut off: {needed - there:,} of {needed:,} bytes are missing; download or copy it again"
    return [Fault(str(shard), what)]


def _count(header: Header, key: str) -> int:
    value = header.metadata[key].decode() if key in header.metadata else 0
    return value if isinstance(value, int) else 0


def row_chunks(tensor: Tensor, chunk_weights: int = CHUNK_WEIGHTS) -> Iterator[tuple[int, int, int]]:
    """Yield (matrix, first row, end row) of consecutive chunks of at most `chunk_weights` weights, at least one row.

    >>> from raq_solver.quant_types import CATALOGUE
    >>> stack = Tensor("blk.0.ffn_up_exps.weight", (256, 3, 2), CATALOGUE["F16"])
    >>> list(row_chunks(stack, chunk_weights=512))
    [(0, 0, 2), (0, 2, 3), (1, 3, 5), (1, 5, 6)]
    """
    rows = tensor.rows // tensor.matrices
    step = max(1, chunk_weights // tensor.row_length)
    for matrix in range(tensor.matrices):
        for first in range(0, rows, step):
            yield matrix, matrix * rows + first, matrix * rows + min(first + step, rows)
