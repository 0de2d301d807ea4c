"""Write a model file: the source's tensors in new types, and the source's metadata with additions.

Rules
- Tensors and metadata keys keep their order; an unchanged value keeps its bytes.
- One chunk of one tensor is in memory at a time.
- The file is complete or absent: it is written to a temporary path, compared with the expected layout, then renamed.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from raq_client.files.atomic_file import atomic_file
from raq_client.models.gguf_header import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    StoredValue,
    TensorInfo,
    Value,
    encode_header,
    padded,
    stored,
)
from raq_client.models.model_file import ModelFile, open_model
from raq_solver.errors import Fault, InvalidInput, LedgerMismatch, raise_faults
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

Blocks = Callable[[Tensor, QuantType], Iterable[UInt8[np.ndarray, "rows size"]]]
"""Returns the rows of a tensor as blocks of a type, in order, one chunk at a time."""

Empty = Sequence[tuple[int, TensorInfo]]
"""Tensors without elements, as `ModelFile.empty` has them."""

Progress = Callable[[str, int], None]
"""Called with the name of the tensor and the number of its bytes just written."""


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A written model file: the exact size of its parts, and its SHA-256."""

    path: Path
    tensor_bytes: int
    padding_bytes: int
    header_bytes: int
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.tensor_bytes + self.padding_bytes + self.header_bytes


def write_model(
    path: Path,
    source: ModelFile,
    types: Mapping[str, QuantType],
    blocks: Blocks,
    *,
    metadata: Mapping[str, Value] | None = None,
    without: tuple[str, ...] = (),
    force: bool = False,
    progress: Progress = lambda _name, _size: None,
) -> WrittenModel:
    """Write `source` with each tensor in its type from `types`; a tensor not listed there keeps its own.

    `metadata` replaces and adds keys; the source's keys that begin with one of `without` are left out. A split source
    becomes one file.
    Raises InvalidInput if `path` is the source, exists without `force`, can't be written or the disk is full;
    LedgerMismatch if the written file differs from the expected layout.
    """
    _check_target(path, source, types)
    chosen, header, end, alignment = _planned(source, types, metadata, without)
    digest = hashlib.sha256(header)
    with atomic_file(path, force=force, needed=len(header) + end) as file:
        file.write(header)
        for tensor, quant_type in chosen.items():
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
        reconcile(Path(file.name), chosen, source.empty)
    tensor_bytes = sum(quant_type.size(tensor.weights) for tensor, quant_type in chosen.items())
    return WrittenModel(path, tensor_bytes, end - tensor_bytes, len(header), digest.hexdigest())


def file_size(
    source: ModelFile,
    types: Mapping[str, QuantType],
    metadata: Mapping[str, Value] | None = None,
    without: tuple[str, ...] = (),
) -> int:
    """The bytes of the file that `write_model` writes for these arguments."""
    _, header, end, _ = _planned(source, types, metadata, without)
    return len(header) + end


def _planned(
    source: ModelFile, types: Mapping[str, QuantType], metadata: Mapping[str, Value] | None, without: tuple[str, ...]
) -> tuple[dict[Tensor, QuantType], bytes, int, int]:
    """The type of every tensor, the encoded header, the number of bytes after it, and the alignment."""
    chosen = {tensor: types.get(tensor.name, tensor.source_type) for tensor in source.tensors}
    kept = {key: value for key, value in source.metadata.items() if not key.startswith(without)}
    keys = kept | {key: stored(value) for key, value in (metadata or {}).items()}
    # libllama aborts the process if data are aligned to less, or if the alignment is not stored as u32.
    alignment = max(source.alignment, DEFAULT_ALIGNMENT)
    if ALIGNMENT_KEY in keys:
        keys[ALIGNMENT_KEY] = stored(alignment)
    header, end = _layout(chosen, source.empty, keys, alignment)
    return chosen, header, end, alignment


def reconcile(path: Path, chosen: Mapping[Tensor, QuantType], empty: Empty = ()) -> None:
    """Open the written file again and compare it with the expected tensors, in order; also with those `empty`.

    Raises LedgerMismatch with the first difference.
    """
    try:
        written = open_model(path)
    except InvalidInput as error:
        raise LedgerMismatch(f"the file just written can't be opened: {error}") from error
    expected = [(tensor.name, tensor.shape, quant_type.name) for tensor, quant_type in chosen.items()]
    found = [(tensor.name, tensor.shape, tensor.source_type.name) for tensor in written.tensors]
    for one, other in zip(expected, found, strict=False):
        if one != other:
            raise LedgerMismatch(f"{path}: expected {one}, the file has {other}")
    if len(expected) != len(found):
        raise LedgerMismatch(f"{path}: expected {len(expected)} tensors, the file has {len(found)}")
    if _names(written.empty) != _names(empty):
        raise LedgerMismatch(
            f"{path}: expected the empty tensors {_names(empty)}, the file has {_names(written.empty)}"
        )


def _names(empty: Empty) -> list[tuple[int, str]]:
    return [(before, info.name) for before, info in empty]


def _check_target(path: Path, source: ModelFile, types: Mapping[str, QuantType]) -> None:
    if path.exists() and any(path.samefile(shard) for shard in source.shards):
        raise InvalidInput(Fault(str(path), "is the model itself; name another file"))
    known = {tensor.name: tensor for tensor in source.tensors}
    faults = [Fault(name, f"not a tensor of {source.path}") for name in types if name not in known]
    faults += [
        Fault(name, f"rows of {known[name].row_length} weights can't be stored as {quant_type.name}")
        for name, quant_type in types.items()
        if name in known and not quant_type.fits(known[name].row_length)
    ]
    raise_faults(faults)


def _layout(
    chosen: Mapping[Tensor, QuantType], empty: Empty, keys: Mapping[str, StoredValue], alignment: int
) -> tuple[bytes, int]:
    """The encoded header, and the number of bytes after it."""
    infos = []
    offset = 0
    left = list(empty)
    for number, (tensor, quant_type) in enumerate(chosen.items()):
        while left and left[0][0] == number:
            infos.append(replace(left.pop(0)[1], offset=offset))
        infos.append(TensorInfo(tensor.name, tensor.shape, quant_type.ggml_id, offset))
        offset = padded(offset + quant_type.size(tensor.weights), alignment)
    infos += [replace(info, offset=offset) for _, info in left]
    return encode_header(keys, infos, alignment), offset


def _check_size(tensor: Tensor, quant_type: QuantType, size: int) -> None:
    expected = quant_type.size(tensor.weights)
    if size != expected:
        raise LedgerMismatch(f"{tensor.name} as {quant_type.name}: expected {expected} bytes, got {size}")
