"""A model file as units: ranges of rows, written at their places in files of the final size.

The files lie unfinished in the work folder until every range is there. Then the ranges are read once, compared with the
hashes in their lines, and the files get their names; a manifest of all hashes comes last. The bytes are those that one
process writes.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from raq_client.files.atomic_file import sync_folder
from raq_client.files.manifest import versions, write_manifest
from raq_client.files.output_checks import check_output, no_room, target_of, unwritable
from raq_client.models.gguf_header import Value
from raq_client.models.split import Split
from raq_client.models.writer import PlannedFile, WrittenModel, as_one, check_not_source, reconcile
from raq_client.planning.model_inputs import ModelInputs
from raq_client.progress import Notes, silent
from raq_client.quantizing.effort import writing_cost
from raq_client.quantizing.measure import kernels_digest
from raq_client.quantizing.pruned import pruned
from raq_client.quantizing.quantize import Quantization, blocks_of
from raq_client.units.journal import Journal, work_folder
from raq_client.units.rows import Rows, rows_of_unit_size
from raq_client.units.unit import Line, Unit
from raq_solver.allocation import Allocation
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType

FORMAT: Final = "raq-parts-1"
_VERSION: Final = "quantize 1"
"""Changed whenever the same key would mean other bytes or other ranges."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class _Range:
    """Rows of a tensor and the bytes of a file that they become."""

    file: PlannedFile
    rows: Rows
    wanted: QuantType
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class QuantizeJob:
    """Writing the model of `inputs` to `output` with the types of `allocation`, as `quantize_model` does.

    `layers` are left out, as by `pruned`.
    """

    loads_model: ClassVar[bool] = False
    inputs: ModelInputs
    allocation: Allocation
    output: Path
    split: Split | None = None
    metadata: Mapping[str, Value] = field(default_factory=dict)
    layers: frozenset[int] | None = None

    @cached_property
    def whole(self) -> Quantization:
        """What all parts together write: the model without the `layers`, in one piece."""
        model, allocation, rounding = self.inputs.model, self.allocation, self.inputs.rounding
        if self.layers is not None:
            model, allocation, importance = pruned(model, allocation, rounding.importance, self.layers)
            rounding = replace(rounding, importance=importance)
        return Quantization(model, allocation, self.output, rounding, self.split, self.metadata)

    @property
    def files(self) -> tuple[PlannedFile, ...]:
        """The files to write. Raises InvalidInput with every tensor that can't have its type."""
        return self.whole.files

    @cached_property
    def key(self) -> str:
        """A digest of model, importance, kernels and effort, and of the headers and names of the files."""
        model, importance = self.whole.model, self.whole.rounding.importance
        state = hashlib.sha256(f"{_VERSION} {model.fingerprint()} {kernels_digest()} {self.inputs.effort}".encode())
        if importance is not None:
            state.update(f"{importance.digest()} {importance.fisher_digest()}".encode())
        for file in self.files:
            state.update(f"{file.path.name}\0".encode() + hashlib.sha256(file.header).digest())
        return state.hexdigest()

    @cached_property
    def _ranges(self) -> dict[str, _Range]:
        """All ranges by the names of their units, in the order of the files."""
        found = {}
        for file in self.files:
            starts = file.starts()
            for tensor, wanted in file.chosen.items():
                row_bytes = wanted.size(tensor.row_length)
                for rows in rows_of_unit_size(tensor):
                    start = starts[tensor.name] + rows.rows.start * row_bytes
                    found[rows.name] = _Range(file, rows, wanted, start, len(rows.rows) * row_bytes)
        return found

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """A unit for each range."""
        return tuple(
            Unit(name, one.rows.weights * writing_cost(one.rows.tensor.source_type, one.wanted))
            for name, one in self._ranges.items()
        )

    def run(self, unit: Unit) -> Line:
        """Write a range to its place, and wait until the disk has it; its SHA-256."""
        one = self._ranges[unit.name]
        with _opened(self._part(one.file), one.file) as file:
            digest, at = hashlib.sha256(), one.start
            for data in self._blocks(one):
                digest.update(data)
                _write_at(file, data, at)
                at += len(data)
            os.fdatasync(file)
        return {"sha256": digest.hexdigest()}

    def again(self, unit: Unit) -> Line:
        """The SHA-256 of a range, computed from the model."""
        digest = hashlib.sha256()
        for data in self._blocks(self._ranges[unit.name]):
            digest.update(data)
        return {"sha256": digest.hexdigest()}

    def finish(
        self, lines: Mapping[str, Line], journal: Journal, *, force: bool = False, notes: Notes = silent
    ) -> WrittenModel:
        """Name the files as `named` does, write the manifest, and remove the lines."""
        written = self.named(lines, force=force, notes=notes)
        write_manifest(self._manifest(written, lines), manifest_path(self.output))
        journal.remove()
        return as_one(written) if self.split is not None else written[0]

    def named(self, lines: Mapping[str, Line], *, force: bool = False, notes: Notes = silent) -> list[WrittenModel]:
        """Check the ranges against their lines, complete the files, and give them their names.

        A range that the disk has lost is written again, with a note. Raises InvalidInput if it is lost again, or if an
        output exists without `force`; LedgerMismatch if a file has not the expected layout.
        """
        check_not_source(self.files, self.whole.model)
        for file in self.files:
            check_output(file.path, force=force)
        written = [self._sealed(file, lines, notes) for file in self.files]
        for file in reversed(self.files):  # the first one, by which a model is loaded, comes last
            target = target_of(file.path)
            self._part(file).replace(target)
            sync_folder(target.parent)
        return written

    def unopened(self, threads: int) -> "QuantizeJob":
        """The same job with nothing opened."""
        return replace(self, inputs=replace(self.inputs, threads=threads))

    def close(self) -> None:
        """Release the device."""
        self.inputs.device.release()

    def _blocks(self, one: _Range) -> Iterator[memoryview]:
        tensor = one.rows.tensor
        for blocks in blocks_of(self.whole.model, tensor, one.wanted, self.whole.rounding, one.rows.rows):
            yield np.ascontiguousarray(blocks).data.cast("B")

    def _part(self, file: PlannedFile) -> Path:
        return work_folder(self.output) / self.key[:32] / file.path.name

    def _sealed(self, planned: PlannedFile, lines: Mapping[str, Line], notes: Notes) -> WrittenModel:
        """The file with header and padding, after every range was compared with its line."""
        path = self._part(planned)
        digest, at = hashlib.sha256(planned.header), len(planned.header)
        with _opened(path, planned) as file:
            _write_at(file, planned.header, 0)
            for name, one in self._ranges.items():
                if one.file is planned:
                    padding = bytes(one.start - at)
                    _write_at(file, padding, at)
                    digest.update(padding)
                    digest.update(self._sound(file, name, one, lines, notes))
                    at = one.start + one.size
            padding = bytes(planned.size - at)
            _write_at(file, padding, at)
            digest.update(padding)
            os.fsync(file)
        reconcile(path, planned)
        return planned.written(digest.hexdigest())

    def _sound(self, file: int, name: str, one: _Range, lines: Mapping[str, Line], notes: Notes) -> bytes:
        """The bytes of a range as its line describes them."""
        for _ in range(2):
            found = os.pread(file, one.size, one.start)
            if hashlib.sha256(found).hexdigest() == lines[name]["sha256"]:
                return found
            notes(f"note: {name} is not on the disk as it was written; writing it again")
            self.run(Unit(name, 0))
        what = f"{name} is not what was written, twice: check the disk, remove {self._part(one.file).parent}"
        raise InvalidInput(Fault(str(one.file.path), f"{what}, and run all parts again"))

    def _manifest(self, written: list[WrittenModel], lines: Mapping[str, Line]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "versions": versions(),
            "job": self.key,
            "model": self.whole.model.fingerprint(),
            "files": [{"name": each.path.name, "size": each.size, "sha256": each.sha256} for each in written],
            "units": {name: lines[name]["sha256"] for name in self._ranges},
        }


def manifest_path(output: Path) -> Path:
    """The manifest that is written beside an output.

    >>> manifest_path(Path("m.gguf")).name
    'm.gguf.manifest.json'
    """
    return output.with_name(f"{output.name}.manifest.json")


@contextmanager
def _opened(path: Path, planned: PlannedFile) -> Iterator[int]:
    """The unfinished file, of its final size, as a descriptor. Raises InvalidInput if it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(file, planned.size)  # to the same size by everybody: nothing is ever cut off
            yield file
        finally:
            os.close(file)
    except OSError as error:
        full = error.errno in _NO_ROOM
        raise InvalidInput(no_room(planned.path, planned.size) if full else unwritable(path, error)) from error


def _write_at(file: int, data: bytes | memoryview, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written
