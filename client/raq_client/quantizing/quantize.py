"""Quantize a model file: write a model file with the types of an allocation.

Rules
- A tensor whose type does not change is copied byte for byte.
- Rows are quantized in chunks, each within one matrix, so that every expert has its own importance and memory use does
  not grow with the model.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

import raq_native
from raq_client.files.names import without_folders
from raq_client.importance.imatrix import Importance, check_against
from raq_client.models.file_types import file_type_of
from raq_client.models.gguf_header import Value
from raq_client.models.model_file import CHUNK_WEIGHTS, ModelFile, row_chunks, to_weights
from raq_client.models.quantizable import is_quantizable, needs_importance
from raq_client.models.split import Split
from raq_client.models.writer import Blocks, PlannedFile, Progress, WrittenModel, planned_files, write_model
from raq_client.quantizing.ahead import rounded_ahead
from raq_client.quantizing.arithmetic import arithmetic_digest
from raq_client.quantizing.kept_in_turn import SEQUENTIAL, keys_in_turn
from raq_client.quantizing.measure import kernels_digest
from raq_client.quantizing.refusals import refusals_named
from raq_client.quantizing.rounding import MatrixRounding, Rounding, rows_of
from raq_client.quantizing.sequential import sequences_of, sequentially_rounded
from raq_client.quantizing.tensor_store import KeptTensors
from raq_solver.allocation import Allocation
from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults
from raq_solver.quant_types import UNQUANTIZED, QuantType, quant_type
from raq_solver.tensors import Tensor

CUDA_CHUNK_WEIGHTS: Final = 64 * 2**20
"""Weights per chunk on CUDA devices: 256 MiB, so that they need not wait for each other or for the next call."""

IN_TURN_WINDOWS: Final = "raq.sequential.windows"
"""Metadata key of files whose blocks were rounded one after the other: the windows that passed through the model."""
STALE: Final = ("quantize.imatrix.", "raq.")
"""Beginnings of metadata keys that tell how a file was quantized; a file made from it has its own."""
_LLAMA_TEXT_BYTES: Final = 127
"""llama-quantize truncates text in its metadata to this length."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """A model, the types to write it in, and everything else that the bytes of its new file depend on.

    `allocation` must contain every tensor. With a `split` several files are written; `metadata` is written in addition
    to the keys of llama-quantize and raq.
    """

    model: ModelFile
    allocation: Allocation
    output: Path
    rounding: Rounding = field(default_factory=Rounding)
    split: Split | None = None
    metadata: Mapping[str, Value] = field(default_factory=dict)

    @cached_property
    def types(self) -> dict[Tensor, QuantType]:
        """The type of each tensor in file order. Raises InvalidInput as `resolved_types` does."""
        return resolved_types(self.model, self.allocation, self.rounding.importance)

    @cached_property
    def types_by_name(self) -> dict[str, QuantType]:
        """The same by the names of tensors."""
        return {tensor.name: wanted for tensor, wanted in self.types.items()}

    @cached_property
    def keys(self) -> dict[str, Value]:
        """The metadata that is added to the model's."""
        keys = quantization_metadata(self.types, self.rounding.importance) | dict(self.metadata)
        if self.rounding.compensation is not None:
            gram = self.rounding.compensation.gram
            keys["raq.gram.sha256"] = gram.digest()
            if self.rounding.sequential:
                keys[IN_TURN_WINDOWS] = len(sequences_of(gram))
        return keys

    @cached_property
    def files(self) -> tuple[PlannedFile, ...]:
        """The files to write, in order.

        Raises InvalidInput with every tensor that can't have its type, and if the `split` is impossible.
        """
        return planned_files(
            self.output, self.model, self.types_by_name, metadata=self.keys, without=STALE, split=self.split
        )


def quantize_model(
    wanted: Quantization,
    *,
    keep: KeptTensors | None = None,
    force: bool = False,
    progress: Progress = lambda _name, _size: None,
    passed: Callable[[int, int], None] | None = None,
) -> WrittenModel:
    """Write a quantized model; its files appear complete or not at all.

    `keep` has tensors of earlier builds, and gets those of this one. `passed` is called with what is done of
    sequential rounding, which comes before anything is written. Raises InvalidInput with every tensor that can't have
    its type, as `write_model` does, and if blocks can't be rounded one after the other but shall be.
    """
    model, rounding = wanted.model, wanted.rounding
    types = wanted.types_by_name
    if keep is not None and rounding.sequential:
        keep = keep.under(keys_in_turn(model, wanted.types, rounding))
    if rounding.importance is not None:
        check_against(rounding.importance, model.tensors, ())

    def kept(tensor: Tensor, chosen: QuantType) -> Iterator[UInt8[np.ndarray, "rows size"]]:
        made = blocks_of(model, tensor, chosen, rounding)
        return made if keep is None or chosen == tensor.source_type else keep(tensor, chosen, rounding, made)

    made_by: AbstractContextManager[Blocks]
    if rounding.sequential:
        folder = unfinished_folder(wanted) / _unfinished_key(wanted)
        made_by = nullcontext(sequentially_rounded(model, wanted.types, rounding, kept, folder, passed, keep))
    elif keep is None:
        made_by = rounded_ahead(wanted.types, rounding, partial(blocks_of, model))
    else:  # what is kept may not have to be made at all
        made_by = nullcontext(kept)
    with made_by as blocks:
        written = write_model(
            wanted.output,
            model,
            types,
            blocks,
            metadata=wanted.keys,
            without=STALE,
            split=wanted.split,
            force=force,
            progress=progress,
        )
    rounding.device.release()
    if rounding.sequential:
        shutil.rmtree(unfinished_folder(wanted), ignore_errors=True)
    return written


def unfinished_folder(wanted: Quantization) -> Path:
    """The folder beside an output for the rounded tensors of an unfinished sequential pass."""
    return rounded_folder(wanted.files[0].path)


def rounded_folder(output: Path) -> Path:
    """The same for the first of the files to write."""
    return output.with_name(f"{output.name}.rounded")


def _unfinished_key(wanted: Quantization) -> str:
    """A digest of everything that the rounded tensors of a sequential pass depend on."""
    rounding, model = wanted.rounding, wanted.model
    state = hashlib.sha256(f"{SEQUENTIAL} {model.fingerprint()} {kernels_digest()} {rounding.effort}".encode())
    state.update(arithmetic_digest().encode())
    if rounding.importance is not None:
        state.update(f"{rounding.importance.digest()} {rounding.importance.fisher_digest()}".encode())
    for file in wanted.files:  # headers have the types, and the digest of the Gram statistics
        state.update(file.header)
    return state.hexdigest()[:32]


def resolved_types(model: ModelFile, allocation: Allocation, importance: Importance | None) -> dict[Tensor, QuantType]:
    """The type of each tensor in file order, checked to be writable with this importance.

    Raises InvalidInput with every tensor that is missing, unknown or can't have its type.
    """
    names = [tensor.name for tensor in model.tensors]
    faults = [
        Fault(name, f"in the allocation, but not a tensor of {model.path}{near_misses(name, names)}")
        for name in allocation.types.keys() - set(names)
    ]
    chosen = {}
    for tensor in model.tensors:
        wanted = allocation.types.get(tensor.name)
        if wanted is None:
            faults.append(Fault(tensor.name, "has no quant type in the allocation"))
        elif wanted == tensor.source_type.name:
            chosen[tensor] = tensor.source_type
        else:
            chosen[tensor] = quant_type(wanted)
            faults += _type_faults(model, tensor, chosen[tensor], importance)
    raise_faults(faults)
    return chosen


def planned_size(chosen: Mapping[Tensor, QuantType]) -> int:
    """The size of the tensor data in these types, bytes."""
    return sum(wanted.size(tensor.weights) for tensor, wanted in chosen.items())


def quantization_metadata(chosen: Mapping[Tensor, QuantType], importance: Importance | None) -> dict[str, Value]:
    """The metadata that llama-quantize writes to a quantized file, and raq's provenance.

    Source: llama_model_quantize_impl and tools/quantize/quantize.cpp of llama.cpp 0c1e57098.
    """
    keys: dict[str, Value] = {"general.quantization_version": 2, "general.file_type": file_type_of(chosen).number}
    if importance is not None:
        # Without folders: files are published, and their makers' folders are nobody else's business.
        keys["quantize.imatrix.file"] = _cut(without_folders(importance.source))
        if importance.datasets:
            keys["quantize.imatrix.dataset"] = _cut(without_folders(importance.datasets[0]))
        keys["quantize.imatrix.entries_count"] = len(importance.entries)
        if importance.chunk_count:
            keys["quantize.imatrix.chunks_count"] = importance.chunk_count
        keys["raq.importance.sha256"] = importance.digest()
        if importance.fisher:
            keys["raq.fisher.sha256"] = importance.fisher_digest()
    lines = "".join(f"{tensor.name}={wanted.name}\n" for tensor, wanted in chosen.items())
    return keys | {"raq.version": version("raq"), "raq.allocation.sha256": hashlib.sha256(lines.encode()).hexdigest()}


def blocks_of(
    model: ModelFile, tensor: Tensor, wanted: QuantType, rounding: Rounding, rows: range | None = None
) -> Iterator[UInt8[np.ndarray, "rows size"]]:
    """These rows of a tensor (None: all) as blocks of a type, a chunk at a time; copied if it is the tensor's own.

    The bytes of a row do not depend on which rows are asked for together. Raises InvalidInput for a damaged weight.
    """
    asked = range(tensor.rows) if rows is None else rows
    if wanted == tensor.source_type:
        return _copied(model, tensor, asked)
    return _quantized(model, tensor, wanted, rounding, asked)


def _clipped(tensor: Tensor, asked: range, chunk: int) -> Iterator[tuple[int, int, int]]:
    """Matrix, first and end row of the chunks of a tensor, as far as they are asked for."""
    for matrix, first, last in row_chunks(tensor, chunk):
        first, last = max(first, asked.start), min(last, asked.stop)  # noqa: PLW2901
        if first < last:
            yield matrix, first, last


def _copied(model: ModelFile, tensor: Tensor, asked: range) -> Iterator[UInt8[np.ndarray, "rows size"]]:
    for _, first, last in _clipped(tensor, asked, CHUNK_WEIGHTS):
        rows = model.stored(tensor, first, last)
        if tensor.source_type.name in UNQUANTIZED:
            bad = np.argwhere(np.isnan(to_weights(rows, tensor.source_type, tensor.row_length)))
            if bad.size:  # infinity is allowed: factors of rotary embedding may contain it
                what = f"weight {bad[0, 1]} of row {first + bad[0, 0]} is nan; get the model file again, it is damaged"
                raise InvalidInput(Fault(tensor.name, what))
        yield rows


def _quantized(
    model: ModelFile, tensor: Tensor, wanted: QuantType, rounding: Rounding, asked: range
) -> Iterator[UInt8[np.ndarray, "rows size"]]:
    by: MatrixRounding | None = None
    at = -1
    whole = rounding.needs_all_rows(tensor)
    chunk = CHUNK_WEIGHTS if rounding.device.name == "cpu" else CUDA_CHUNK_WEIGHTS
    for matrix, first, last in row_chunks(tensor, tensor.weights // tensor.matrices if whole else chunk):
        some = range(max(first, asked.start), min(last, asked.stop))
        if not some:
            continue
        # With feedback between rows the others of the matrix are rounded too, and left out.
        read = range(first, last) if whole else some
        weights = np.ascontiguousarray(model.weights(tensor, read.start, read.stop))
        with refusals_named(tensor, weights, read):
            if by is None or matrix != at:
                by, at = rounding.of_matrix(tensor, matrix, wanted, rows_of(model, tensor, matrix)), matrix
            blocks = by.blocks(weights)
        yield blocks[some.start - read.start : some.stop - read.start]


def _type_faults(model: ModelFile, tensor: Tensor, wanted: QuantType, importance: Importance | None) -> list[Fault]:
    if not is_quantizable(tensor, model.architecture):
        return [
            Fault(tensor.name, f"stays {tensor.source_type.name}: llama.cpp can't use such tensors as {wanted.name}")
        ]
    if not wanted.fits(tensor.row_length):
        return [Fault(tensor.name, f"rows of {tensor.row_length} weights can't be stored as {wanted.name}")]
    if wanted.name not in {known.name for known in raq_native.QUANT_TYPES}:
        return [Fault(tensor.name, f"raq has no quantizer for {wanted.name}")]
    return _importance_faults(tensor, wanted, importance)


def _importance_faults(tensor: Tensor, wanted: QuantType, importance: Importance | None) -> list[Fault]:
    if not needs_importance(wanted, tensor.name) or (importance is not None and importance.knows(tensor.name)):
        return []
    if importance is None:
        return [Fault(tensor.name, f"{wanted.name} needs importance; give an imatrix, or a larger type")]
    what = f"{wanted.name} needs importance, and {importance.source or 'the importance'} has none of this tensor"
    return [Fault(tensor.name, f"{what}; collect it again, or give a larger type")]


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:_LLAMA_TEXT_BYTES].decode(errors="ignore")
