"""Measure the error of every tensor of a model at every quant type, with the kernels that also write files.

Rules
- Weights are read and measured a chunk of rows at a time; no array has the size of a whole tensor.
- Each measured tensor is one line appended to a file in the cache folder. The file's name is a digest of everything
  that the numbers depend on, so nothing is measured twice and an interrupted measurement continues where it stopped.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

import raq_native
from raq_client.compensation.compensate import Effort
from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile, row_chunks
from raq_client.models.quantizable import candidates
from raq_client.models.table import FINGERPRINT, NUMBERS, OVERHEAD, numbers_text, table_of
from raq_client.models.type_choice import TypeChoice
from raq_client.quantizing.devices import CPU, Device
from raq_client.quantizing.fisher_rows import FisherRows
from raq_client.quantizing.refusals import refusals_named
from raq_client.quantizing.row_sample import RowSums, draw_rows, estimate_errors
from raq_client.quantizing.tensor_errors import Store, TensorErrors
from raq_native import _raq_native
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import FisherLevels, FisherLosses, Profile
from raq_solver.quant_types import INPUT_BLOCKS, QuantType
from raq_solver.tensors import Tensor

WAY_OF_MEASURING: Final = "3"
"""Version of the measurement; changed whenever the same inputs give other errors, which invalidates the cache."""
Progress = Callable[[int, int], None]
"""Called after each chunk with the number of weights done and the total."""


@dataclass(frozen=True, slots=True)
class Method:
    """How to measure: on `rows` rows of each matrix (None: all) with `threads` threads (0: one per core).

    `device` is used for whole tensors; the few rows of a sample are measured on the CPU.
    """

    effort: Effort = "fast"
    threads: int = 0
    rows: int | None = None
    device: Device = CPU

    def samples(self, tensor: Tensor) -> bool:
        """Whether only a sample of the tensor's rows is measured."""
        return self.rows is not None and self.rows < tensor.rows // tensor.matrices


def measure_profile(
    model: ModelFile,
    importance: Importance | None,
    choice: TypeChoice,
    *,
    effort: Effort = "fast",
    threads: int = 0,
    device: Device = CPU,
    rows: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure the profile of a model: the relative error of every tensor at every type it can be stored in.

    With `rows` (at least 2), only that many rows of each matrix are measured, and the profile contains the standard
    errors of these estimates.

    Raises InvalidInput if the model can't be read, the importance is not of this model, or `rows` is too small.
    """
    method = Method(effort, threads, rows, device)
    offered = offered_types(model, importance, choice)
    columns = _columns(offered)
    key = measurement_key(model, importance, offered, method)
    store = Store(cache / f"{key}.jsonl" if cache is not None else None)
    total = sum(tensor.weights for tensor in model.tensors)
    done = 0
    measured: list[TensorErrors] = []
    for tensor in model.tensors:
        known = store.get(tensor.name)
        if known is None:
            report = None if progress is None else _shifted(progress, done, total)
            known = measure_tensor(model, tensor, importance, offered[tensor.name], method, report)
            store.add(tensor.name, known)
        measured.append(known)
        done += tensor.weights
        if progress is not None:
            progress(done, total)
    device.release()
    return _profile(model, importance, columns, measured, method)


def measure_tensor(
    model: ModelFile,
    tensor: Tensor,
    importance: Importance | None,
    types: Sequence[QuantType],
    method: Method,
    progress: Callable[[int], None] | None = None,
) -> TensorErrors:
    """The relative errors of one tensor at these types; 0 for the type it is stored in."""
    searched = [q.name for q in types if q != tensor.source_type]
    if searched and method.samples(tensor):
        found = _sampled(model, tensor, importance, searched, method)
        return _completed(found, tensor, types, importance)
    chunks = chunk_sums(model, tensor, importance, types, method, progress=progress) if searched else ()
    return combined(tuple(chunks), tensor, types, importance)


def combined(
    chunks: Sequence["ChunkSums"], tensor: Tensor, types: Sequence[QuantType], importance: Importance | None
) -> TensorErrors:
    """The errors of a whole tensor from the sums of all its chunks, in any order."""
    searched = [q.name for q in types if q != tensor.source_type]
    if not searched:
        return _completed(TensorErrors({}, 0.0), tensor, types, importance)
    # fsum is exact: the order of the chunks does not matter, and rounding errors do not add up over a large tensor.
    energy = math.fsum(each.energy for each in chunks)
    squared = {name: math.fsum(each.squared[i] for each in chunks) for i, name in enumerate(searched)}
    found = TensorErrors({name: each / energy if energy > 0 else 0.0 for name, each in squared.items()}, energy)
    if importance is not None and tensor.name in importance.fisher:
        found = replace(
            found,
            fisher_losses={name: math.fsum(each.costs[i] for each in chunks) for i, name in enumerate(searched)},
            fisher_energy=math.fsum(each.fisher_energy for each in chunks),
        )
    return _completed(found, tensor, types, importance)


def _completed(
    found: TensorErrors, tensor: Tensor, types: Sequence[QuantType], importance: Importance | None
) -> TensorErrors:
    """The errors with those of the tensor's own type, which are 0."""
    own = {tensor.source_type.name: 0.0} if tensor.source_type in types else {}
    found = replace(found, errors={**found.errors, **own})
    fisher = None if importance is None else importance.fisher.get(tensor.name)
    return found if fisher is None else replace(found, fisher_losses={**found.fisher_losses, **own})


def weight_chunks(
    model: ModelFile, tensor: Tensor, importance: Importance | None, numbers: range | None = None
) -> Iterator[tuple[int, Float32[np.ndarray, "rows length"], Float32[np.ndarray, " length"] | None]]:
    """Yield (first row, weights, importance of the columns) of chunks of rows, each within one matrix.

    `numbers` are those of the chunks; None: all.
    """
    per_matrix = None if importance is None else importance.rows(tensor)
    chunks = row_chunks(tensor) if numbers is None else islice(row_chunks(tensor), numbers.start, numbers.stop)
    for matrix, first, last in chunks:
        weights = np.ascontiguousarray(model.weights(tensor, first, last))
        yield first, weights, None if per_matrix is None else per_matrix[matrix]


@dataclass(frozen=True, slots=True)
class ChunkSums:
    """For a chunk of rows, Σ h ΔW² and cost in nats at each type, Σ h W², and the cost of setting the rows to 0."""

    squared: Sequence[float]
    energy: float
    costs: Sequence[float]
    fisher_energy: float


def chunk_sums(
    model: ModelFile,
    tensor: Tensor,
    importance: Importance | None,
    types: Sequence[QuantType],
    method: Method,
    numbers: range | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ChunkSums]:
    """The sums of these chunks of `row_chunks(tensor)` (None: all) at every type but the tensor's own."""
    searched = [q.name for q in types if q != tensor.source_type]
    fisher = None if importance is None else importance.fisher.get(tensor.name)
    rounding = None if importance is None else importance.rounding(tensor)
    done = 0
    for first, weights, columns in weight_chunks(model, tensor, importance, numbers):
        rows = range(first, first + len(weights))
        with refusals_named(tensor, weights, rows):
            if fisher is None:
                sums = _plain_sums(weights, columns, searched, method)
            else:
                counted = FisherRows.of(fisher, tensor, rows, columns)
                by = None if rounding is None else rounding[counted.matrix]
                sums = _fisher_sums(counted, weights, by, searched, method)
        yield sums
        done += weights.size
        if progress is not None:
            progress(done)


def _plain_sums(
    weights: Float32[np.ndarray, "rows length"],
    columns: Float32[np.ndarray, " length"] | None,
    types: Sequence[str],
    method: Method,
) -> ChunkSums:
    sums = method.device.call(
        raq_native.measure_errors, types, weights, columns, threads=method.threads, effort=method.effort
    )
    return ChunkSums([each.weighted_squared_error for each in sums], sums[0].weighted_energy, (), 0.0)


def _fisher_sums(
    rows: FisherRows,
    weights: Float32[np.ndarray, "rows length"],
    rounding: Float32[np.ndarray, " length"] | None,
    types: Sequence[str],
    method: Method,
) -> ChunkSums:
    # The native measure_errors returns only sums weighted by importance; row costs need ΔW itself.
    whole = rows.sums(weights)
    changed = [rows.sums(restored(name, weights, rounding, method) - weights) for name in types]
    return ChunkSums(
        [float(each.squared_errors.sum()) for each in changed],
        float(whole.squared_errors.sum()),
        [float(each.costs.sum()) for each in changed],
        float(whole.costs.sum()),
    )


def restored(
    quant_type: str,
    weights: Float32[np.ndarray, "rows length"],
    columns: Float32[np.ndarray, " length"] | None,
    method: Method,
) -> Float32[np.ndarray, "rows length"]:
    """The weights after quantizing and dequantizing."""
    blocks = method.device.call(
        raq_native.quantize, quant_type, weights, columns, threads=method.threads, effort=method.effort
    )
    values: Float32[np.ndarray, "rows length"] = raq_native.dequantize(
        quant_type, blocks, weights.shape[1], threads=method.threads
    )
    return values


def _sampled(
    model: ModelFile, tensor: Tensor, importance: Importance | None, types: Sequence[str], method: Method
) -> TensorErrors:
    """Estimated errors, from a sample of rows of each matrix."""
    assert method.rows is not None, "a sample was asked for"
    per_matrix = None if importance is None else importance.rows(tensor)
    rows = tensor.rows // tensor.matrices
    fisher = None if importance is None else importance.fisher.get(tensor.name)
    rounding = None if importance is None else importance.rounding(tensor)
    matrices, costs, fisher_energy = [], np.zeros(len(types)), 0.0
    for matrix in range(tensor.matrices):
        draw = draw_rows(tensor.name, matrix, rows, method.rows)
        places = (matrix * rows + draw.places).tolist()
        weights = np.concatenate([model.weights(tensor, place, place + 1) for place in places])
        columns = None if per_matrix is None else per_matrix[matrix]
        with refusals_named(tensor, weights, places):
            sums = raq_native.measure_rows(types, weights, columns, threads=method.threads, effort=method.effort)
            if fisher is not None:
                drawn, by = (
                    FisherRows.of(fisher, tensor, places, columns),
                    None if rounding is None else rounding[matrix],
                )
                changed = [drawn.sums(restored(name, weights, by, method) - weights) for name in types]
                # Each drawn row counts for all rows of its stratum.
                costs += [float(each.costs @ draw.stands_for) for each in changed]
                fisher_energy += float(drawn.sums(weights).costs @ draw.stands_for)
        matrices.append(RowSums(draw, sums[:, :, 0], sums[0, :, 1]))
    found = estimate_errors(matrices)
    doubts = dict(zip(types, found.standard_errors.tolist(), strict=True))
    estimated = TensorErrors(dict(zip(types, found.errors.tolist(), strict=True)), found.energy, doubts)
    if fisher is None:
        return estimated
    return replace(estimated, fisher_losses=dict(zip(types, costs.tolist(), strict=True)), fisher_energy=fisher_energy)


@functools.cache
def kernels_digest() -> str:
    """A digest of the native extension: other kernels may give other errors."""
    return hashlib.sha256(Path(str(_raq_native.__file__)).read_bytes()).hexdigest()[:16]


def offered_types(
    model: ModelFile, importance: Importance | None, choice: TypeChoice
) -> dict[str, tuple[QuantType, ...]]:
    """The types that each tensor may get; the type it is stored in is always among them."""
    found = {}
    for tensor in model.tensors:
        known = importance is not None and importance.rows(tensor) is not None
        wanted = (*choice.of(tensor), tensor.source_type)
        found[tensor.name] = candidates(tensor, wanted, architecture=model.architecture, has_importance=known)
    return found


def _columns(offered: Mapping[str, Sequence[QuantType]]) -> tuple[QuantType, ...]:
    """All types that some tensor may get, most bits first."""
    found = {q for types in offered.values() for q in types}
    return tuple(sorted(found, key=lambda q: (-q.bits_per_weight, q.name)))


def measurement_key(
    model: ModelFile, importance: Importance | None, offered: Mapping[str, Sequence[QuantType]], method: Method
) -> str:
    """A digest of everything that the measured errors depend on. Raises InvalidInput if `method.rows` is too small."""
    if method.rows is not None and method.rows < 2:
        raise InvalidInput(Fault("rows", f"{method.rows} of each matrix; at least 2 are needed to estimate an error"))
    parts = [model.fingerprint(), importance.digest() if importance is not None else "none"]
    parts += [importance.fisher_digest() if importance is not None else "none"]
    parts += [method.effort, f"{method.rows} rows", kernels_digest(), WAY_OF_MEASURING]
    parts += [q.name for q in _columns(offered)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda part: progress(done + part, total)


def _profile(
    model: ModelFile,
    importance: Importance | None,
    columns: Sequence[QuantType],
    rows: Sequence[TensorErrors],
    method: Method,
) -> Profile:
    errors = np.array([[row.errors.get(q.name, np.inf) for q in columns] for row in rows])
    doubts = np.array([[row.sampling_errors.get(q.name, 0.0) for q in columns] for row in rows])
    unknown = np.full(len(rows), np.nan)
    table = table_of(model)
    provenance = {
        "model": model.name,
        "architecture": model.architecture,
        **({FINGERPRINT: model.fingerprint()} if model.is_known_by_bytes else {}),
        "imatrix": "none" if importance is None else importance.digest(),
        "calibration": "" if importance is None else ", ".join(importance.datasets),
        "effort": method.effort,
        "kernels": kernels_digest(),
        NUMBERS: numbers_text(table),
        OVERHEAD: str(table.overhead),
    }
    fisher = None
    if importance is not None and importance.fisher:
        fisher = FisherLosses(
            np.array([[row.fisher_losses.get(q.name, np.nan) for q in columns] for row in rows]),
            np.array([np.nan if row.fisher_energy is None else row.fisher_energy for row in rows]),
            _input_losses(model, importance),
        )
        provenance["fisher"] = f"{importance.fisher_windows} windows of {importance.chunk_size} tokens"
    if method.rows is not None:
        provenance["rows"] = f"at most {method.rows} rows of each matrix"
    return Profile(
        model.tensors,
        tuple(columns),
        errors,
        np.array([row.energy for row in rows]),
        unknown,
        unknown.copy(),
        provenance,
        sampling_errors=None if method.rows is None else doubts,
        fisher=fisher,
        levels=None if importance is None else _levels(model, importance),
    )


def _input_losses(model: ModelFile, importance: Importance) -> Float64[np.ndarray, "tensors blocks"] | None:
    """The costs of rounded inputs of all tensors, NaN where not known; None in files that don't have them."""
    known = {name: each.inputs for name, each in importance.fisher.items() if each.inputs is not None}
    nothing = np.full(len(INPUT_BLOCKS), np.nan)
    return np.array([known.get(tensor.name, nothing) for tensor in model.tensors], np.float64) if known else None


def _levels(model: ModelFile, importance: Importance) -> FisherLevels | None:
    """The levels of all tensors in each window; None in files that don't have them."""
    if not importance.windows:
        return None
    levels = np.full((len(model.tensors), len(importance.windows)), np.nan)
    for row, tensor in zip(levels, model.tensors, strict=True):
        known = importance.fisher.get(tensor.name)
        if known is not None and known.levels is not None:
            row[:] = known.levels
    texts = tuple(window.text for window in importance.windows)
    return FisherLevels(levels, texts, np.array([window.weight for window in importance.windows]))
