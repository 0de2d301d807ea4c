"""A profile as units: rows of tensors, measured at every type; merged, they are the profile of one process to the bit.

The line of a unit holds the sums of each chunk of rows. `fsum` over all chunks is exact whatever their order, and the
merged errors go to the file in which one process keeps its measurements, from which `ModelInputs.profile` reads them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import ClassVar

from raq_client.models.type_choice import chosen_types
from raq_client.planning.model_inputs import ModelInputs
from raq_client.progress import Notes, Progress, silent
from raq_client.quantizing.effort import measuring_cost
from raq_client.quantizing.measure import (
    ChunkSums,
    Method,
    chunk_sums,
    combined,
    measure_tensor,
    measurement_key,
    offered_types,
)
from raq_client.quantizing.tensor_errors import Store, TensorErrors
from raq_client.units.journal import Journal
from raq_client.units.rows import Rows, rows_of_unit_size
from raq_client.units.unit import Line, Unit
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType


@dataclass(frozen=True, eq=False)
class ProfileJob:
    """Measuring the profile of `inputs`: of a model, by its types."""

    loads_model: ClassVar[bool] = False
    inputs: ModelInputs

    @cached_property
    def _method(self) -> Method:
        by = self.inputs
        return Method(by.effort, by.threads, by.rows, by.device)

    @cached_property
    def _offered(self) -> Mapping[str, tuple[QuantType, ...]]:
        return offered_types(self.inputs.model, self.inputs.importance, chosen_types(self.inputs.types))

    @cached_property
    def key(self) -> str:
        """The digest that names the file of measurements of one process too."""
        return measurement_key(self.inputs.model, self.inputs.importance, self._offered, self._method)

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        """What is measured, by the names of the units; a sampled tensor is one unit."""
        found: dict[str, Rows] = {}
        for tensor in self.inputs.model.tensors:
            most = tensor.weights if self._method.samples(tensor) else None
            cut = rows_of_unit_size(tensor) if most is None else rows_of_unit_size(tensor, most)
            found |= {each.name: each for each in cut}
        return found

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """A unit for each part of each tensor."""
        return tuple(Unit(name, self._cost(rows)) for name, rows in self._rows.items())

    def _cost(self, rows: Rows) -> float:
        searched = [q for q in self._offered[rows.tensor.name] if q != rows.tensor.source_type]
        weights = rows.weights
        if self._method.samples(rows.tensor):
            weights = (self.inputs.rows or 0) * rows.tensor.matrices * rows.tensor.row_length
        return weights * sum(map(measuring_cost, searched))

    def run(self, unit: Unit) -> Line:
        """The sums of the unit's chunks; of a sampled tensor its errors."""
        rows, inputs = self._rows[unit.name], self.inputs
        types = self._offered[rows.tensor.name]
        if self._method.samples(rows.tensor):
            return asdict(measure_tensor(inputs.model, rows.tensor, inputs.importance, types, self._method))
        if all(q == rows.tensor.source_type for q in types):
            return {"chunks": []}
        sums = chunk_sums(inputs.model, rows.tensor, inputs.importance, types, self._method, rows.chunks)
        return {"chunks": [[list(one.squared), one.energy, list(one.costs), one.fisher_energy] for one in sums]}

    again = run

    def finish(
        self, lines: Mapping[str, Line], journal: Journal, progress: Progress | None = None, notes: Notes = silent
    ) -> Profile:
        """The profile from the lines of all units; error feedback, where asked for, is measured here."""
        merged = journal.folder / "merged"
        store = Store(merged / f"{self.key}.jsonl")
        sums: dict[str, list[ChunkSums]] = {}
        for name, rows in self._rows.items():
            for squared, energy, costs, fisher in lines[name].get("chunks", ()):
                sums.setdefault(rows.tensor.name, []).append(ChunkSums(squared, energy, costs, fisher))
        for name, rows in self._rows.items():
            tensor = rows.tensor
            if store.get(tensor.name) is not None:
                continue
            if self._method.samples(tensor):
                found = TensorErrors(**{each.name: lines[name][each.name] for each in fields(TensorErrors)})
            else:
                types = self._offered[tensor.name]
                found = combined(sums.get(tensor.name, ()), tensor, types, self.inputs.importance)
            store.add(tensor.name, found)
        return replace(self.inputs, measurements=merged, cached=True).profile(progress=progress, notes=notes)

    def unopened(self, threads: int) -> "ProfileJob":
        """The same job with nothing opened."""
        return ProfileJob(replace(self.inputs, threads=threads))

    def close(self) -> None:
        """Release the device."""
        self.inputs.device.release()
