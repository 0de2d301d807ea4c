"""Write a model file: the source's tensors in new types, and the source's metadata with additions.

Rules
- Tensors and metadata keys keep their order; an unchanged value keeps its bytes.
- One chunk of one tensor is in memory at a time.
- The file is complete or absent: it is written to a temporary path, compared with the expected layout, then renamed.
- The files of a split model get their names when all are complete, the first one last.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import UInt8

from raq_client.files.atomic_file import atomic_file
from raq_client.files.output_checks import check_output
from raq_client.models.gguf_header import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    StoredValue,
    TensorInfo,
    Value,
    encode_header,
    info_size,
    padded,
    stored,
)
from raq_client.models.model_file import ModelFile, read_header
from raq_client.models.split import MOST_FILES, Split, split_as, split_by_size, split_keys, split_paths
from raq_solver.errors import Fault, InvalidInput, LedgerMismatch, raise_faults
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

Blocks = Callable[[Tensor, QuantType], Iterable[UInt8[np.ndarray, "rows size"]]]
"""Returns the rows of a tensor as blocks of a type, in order, one chunk at a time."""

Empty = Sequence[tuple[int, TensorInfo]]
"""Tensors without elements, as `ModelFile.empty` has them."""

_ITSELF: Final = "is the model itself; name another file"

Progress = Callable[[str, int], None]
"""Called with the name of the tensor and the number of its bytes just written."""


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A written model: the exact size of its parts in bytes, and the SHA-256 of its file.

    A split model has several `shards`; `path` and `sha256` are those of the first one, sizes are those of all.
    """

    path: Path
    tensor_bytes: int
    padding_bytes: int
    header_bytes: int
    sha256: str
    shards: tuple["WrittenModel", ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the whole file, or of all shards."""
        return self.tensor_bytes + self.padding_bytes + self.header_bytes

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(shard.path for shard in self.shards) or (self.path,)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be written: its tensors in order with their types, all entries of its header, the bytes after that."""

    path: Path
    chosen: Mapping[Tensor, QuantType]
    infos: tuple[TensorInfo, ...]
    header: bytes
    data_bytes: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.data_bytes

    def starts(self) -> dict[str, int]:
        """Where the data of each tensor begin, in bytes from the beginning of the file."""
        return {info.name: len(self.header) + info.offset for info in self.infos}

    def written(self, sha256: str) -> WrittenModel:
        """The sizes of this file, once it is there and has this SHA-256."""
        tensor_bytes = sum(quant_type.size(tensor.weights) for tensor, quant_type in self.chosen.items())
        return WrittenModel(self.path, tensor_bytes, self.data_bytes - tensor_bytes, len(self.header), sha256)


@dataclass(frozen=True, slots=True)
class _Content:
    """What all files together hold."""

    chosen: Mapping[Tensor, QuantType]
    empty: Empty
    keys: Mapping[str, StoredValue]
    alignment: int


def write_model(
    path: Path,
    source: ModelFile,
    types: Mapping[str, QuantType],
    blocks: Blocks,
    *,
    metadata: Mapping[str, Value] | None = None,
    without: tuple[str, ...] = (),
    split: Split | None = None,
    force: bool = False,
    progress: Progress = lambda _name, _size: None,
) -> WrittenModel:
    """Write `source` with each tensor in its type from `types`; a tensor not listed there keeps its own.

    `metadata` replaces and adds keys; the source's keys that begin with one of `without` are left out. With `split`
    several files are written (`planned_files`), else one, also if the source is split.
    Raises InvalidInput if a file to write is one of the source, exists without `force`, can't be written or the disk
    is full; LedgerMismatch if a written file differs from the expected layout.
    """
    _check_types(source, types)
    content = _content(source, types, metadata, without)
    files = _files(path, source, content, split)
    check_not_source(files, source)
    check_output(files[0].path, force=force, needed=sum(file.size for file in files))
    with ExitStack() as stack:
        # Entered in order, they are renamed in reverse: the first shard, by which a model is loaded, comes last.
        opened = [stack.enter_context(atomic_file(each.path, force=force, needed=each.size)) for each in files]
        written = [
            _write(file, each, blocks, content.alignment, progress) for file, each in zip(opened, files, strict=True)
        ]
    return as_one(written) if split is not None else written[0]


def check_not_source(files: Iterable[PlannedFile], source: ModelFile) -> None:
    """Raise InvalidInput if one of these files is one of the source."""
    pairs = [(file.path, shard) for file in files for shard in source.shards]
    raise_faults([Fault(str(file), _ITSELF) for file, shard in pairs if file.exists() and file.samefile(shard)])


def as_one(written: Sequence[WrittenModel]) -> WrittenModel:
    """The files of a split model as one written model; a single file as it is."""
    if len(written) == 1:
        return written[0]
    return replace(
        written[0],
        tensor_bytes=sum(each.tensor_bytes for each in written),
        padding_bytes=sum(each.padding_bytes for each in written),
        header_bytes=sum(each.header_bytes for each in written),
        shards=tuple(written),
    )


def planned_files(
    path: Path,
    source: ModelFile,
    types: Mapping[str, QuantType],
    *,
    metadata: Mapping[str, Value] | None = None,
    without: tuple[str, ...] = (),
    split: Split | None = None,
) -> tuple[PlannedFile, ...]:
    """The files that `write_model` writes for these arguments: `path`, or those of a split model of that name.

    Raises InvalidInput if `split` is impossible.
    """
    return _files(path, source, _content(source, types, metadata, without), split)


def file_size(
    source: ModelFile,
    types: Mapping[str, QuantType],
    metadata: Mapping[str, Value] | None = None,
    without: tuple[str, ...] = (),
) -> int:
    """The bytes of the one file that `write_model` writes for these arguments."""
    (file,) = _files(source.path, source, _content(source, types, metadata, without), None)
    return file.size


def _write(file: BinaryIO, planned: PlannedFile, blocks: Blocks, alignment: int, progress: Progress) -> WrittenModel:
    digest = hashlib.sha256(planned.header)
    file.write(planned.header)
    for tensor, quant_type in planned.chosen.items():
        size = 0
        for chunk in blocks(tensor, quant_type):
            data = np.ascontiguousarray(chunk).data
            digest.update(data)
            file.write(data)
            size += data.nbytes
            progress(tensor.name, data.nbytes)
        _check_size(tensor, quant_type, size)
        padding = bytes(padded(size, alignment) - size)
        digest.update(padding)
        file.write(padding)
    file.flush()
    reconcile(Path(file.name), planned)
    return planned.written(digest.hexdigest())


def reconcile(path: Path, planned: PlannedFile) -> None:
    """Parse the written file again and compare it with what was planned. Raises LedgerMismatch if they differ."""
    try:
        header = read_header(path)
    except InvalidInput as error:
        raise LedgerMismatch(f"the file just written can't be opened: {error}") from error
    for one, other in zip_longest(planned.infos, header.tensors):
        if one != other:
            raise LedgerMismatch(f"{planned.path}: expected the tensor {one}, the file has {other}")
    size = path.stat().st_size
    if (header.data_start, size) != (len(planned.header), planned.size):
        found = f"the file has {size}, of them {header.data_start} before the data"
        raise LedgerMismatch(f"{planned.path}: expected {planned.size} bytes, {found}")


def _content(
    source: ModelFile, types: Mapping[str, QuantType], metadata: Mapping[str, Value] | None, without: tuple[str, ...]
) -> _Content:
    chosen = {tensor: types.get(tensor.name, tensor.source_type) for tensor in source.tensors}
    kept = {key: value for key, value in source.metadata.items() if not key.startswith(without)}
    keys = kept | {key: stored(value) for key, value in (metadata or {}).items()}
    # libllama aborts the process if data are aligned to less, or if the alignment is not stored as u32.
    alignment = max(source.alignment, DEFAULT_ALIGNMENT)
    if ALIGNMENT_KEY in keys:
        keys[ALIGNMENT_KEY] = stored(alignment)
    return _Content(chosen, source.empty, keys, alignment)


def _files(path: Path, source: ModelFile, content: _Content, split: Split | None) -> tuple[PlannedFile, ...]:
    """The files to write, in order."""
    everything = range(len(content.chosen))
    if split is None or (split.most_bytes is None and len(source.shards) == 1):
        return (_file(path, content, everything, content.keys),)
    # Each file of a split model has the alignment of its own header; all other metadata are in the first.
    own = {key: value for key, value in content.keys.items() if key == ALIGNMENT_KEY}
    parts = split_as(source) if split.most_bytes is None else _parts(content, own, split.most_bytes)
    if len(parts) > MOST_FILES:
        what = f"that makes {len(parts):,} files, at most {MOST_FILES} are possible; give a larger size"
        raise InvalidInput(Fault("--split-max-size", what))
    held = len(content.chosen) + len(content.empty)
    return tuple(
        _file(name, content, part, dict(own if number else content.keys) | split_keys(number, len(parts), held))
        for number, (name, part) in enumerate(zip(split_paths(path, len(parts)), parts, strict=True))
    )


def _parts(content: _Content, own: Mapping[str, StoredValue], most: int) -> tuple[range, ...]:
    def before_tensors(keys: Mapping[str, StoredValue]) -> int:
        return len(encode_header(dict(keys) | split_keys(0, 1, 0), (), content.alignment)) + content.alignment

    sizes = []
    for number, (tensor, quant_type) in enumerate(content.chosen.items()):
        placed = [info for before, info in content.empty if before == number] + [_info(tensor, quant_type, 0)]
        sizes.append(padded(quant_type.size(tensor.weights), content.alignment) + sum(map(info_size, placed)))
    return split_by_size(sizes, most, first=before_tensors(content.keys), later=before_tensors(own))


def _file(path: Path, content: _Content, part: range, keys: Mapping[str, StoredValue]) -> PlannedFile:
    """One file with the tensors `part`, by their numbers, and the empty ones before each of them."""
    chosen = dict(islice(content.chosen.items(), part.start, part.stop))
    last = part.stop == len(content.chosen)
    infos = []
    offset = 0
    left = [(at, info) for at, info in content.empty if at in part or (last and at == part.stop)]
    for number, (tensor, quant_type) in zip(part, chosen.items(), strict=True):
        while left and left[0][0] == number:
            infos.append(replace(left.pop(0)[1], offset=offset))
        infos.append(_info(tensor, quant_type, offset))
        offset = padded(offset + quant_type.size(tensor.weights), content.alignment)
    infos += [replace(info, offset=offset) for _, info in left]
    return PlannedFile(path, chosen, tuple(infos), encode_header(keys, infos, content.alignment), offset)


def _info(tensor: Tensor, quant_type: QuantType, offset: int) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.shape, quant_type.ggml_id, offset)


def _check_types(source: ModelFile, types: Mapping[str, QuantType]) -> None:
    known = {tensor.name: tensor for tensor in source.tensors}
    faults = [Fault(name, f"not a tensor of {source.path}") for name in types if name not in known]
    faults += [
        Fault(name, f"rows of {known[name].row_length} weights can't be stored as {quant_type.name}")
        for name, quant_type in types.items()
        if name in known and not quant_type.fits(known[name].row_length)
    ]
    raise_faults(faults)


def _check_size(tensor: Tensor, quant_type: QuantType, size: int) -> None:
    expected = quant_type.size(tensor.weights)
    if size != expected:
        raise LedgerMismatch(f"{tensor.name} as {quant_type.name}: expected {expected} bytes, got {size}")
