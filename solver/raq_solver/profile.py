"""Profiles: everything that was measured of a model, from which any budget can be solved without the model.

Rules
- Rows are the tensors of the file in file order, columns the quant types that were measured.
- A relative error of infinity means that this tensor can't be stored as that type.
- Sizes follow from shapes and the catalogue; they are not stored twice.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Self

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.arrays import LARGEST, read_only_copies, repeated
from raq_solver.errors import Fault, raise_faults
from raq_solver.quant_types import INPUT_BLOCKS, QuantType
from raq_solver.tensors import Tensor


@dataclass(frozen=True, eq=False)
class FisherLosses:
    """Losses predicted from the Fisher information of a model's weights.

    `losses` [tensors × types]: Σ_ij F_ij (W - Ŵ)_ij² in nats per token; NaN where the type is not possible or nothing
    is known of the tensor. `energies`: Σ_ij F_ij W_ij² in nats per token, NaN where nothing is known. `inputs`
    [tensors × blocks]: what rounded inputs cost in nats per token, for each of `INPUT_BLOCKS`, NaN where it is not
    known; None where it was not measured at all. All are copied.

    Raises InvalidInput for anything but numbers; shapes are checked by the `Profile`.
    """

    losses: Float64[np.ndarray, "tensors types"]
    energies: Float64[np.ndarray, " tensors"]
    inputs: Float64[np.ndarray, "tensors blocks"] | None = None

    def __post_init__(self) -> None:
        known = {name: getattr(self, name) for name in ("losses", "energies", "inputs")}
        arrays = {f"Fisher {name}": (value, np.float64) for name, value in known.items() if value is not None}
        for name, copy in read_only_copies(arrays).items():
            object.__setattr__(self, name.removeprefix("Fisher "), copy)

    @property
    def arrays(self) -> tuple[Float64[np.ndarray, "..."], ...]:
        """All that is known, in the order of the fields."""
        return (self.losses, self.energies) if self.inputs is None else (self.losses, self.energies, self.inputs)

    def times(self, factors: Float64[np.ndarray, " tensors"]) -> Self:
        """The same with all of each tensor's numbers times its factor."""
        return type(self)(*((each.T * factors).T for each in self.arrays))


@dataclass(frozen=True, eq=False)
class FisherLevels:
    """How the Fisher information of each tensor varies over the windows of text that it was collected from.

    `levels` [tensors × windows] are relative to the tensor's mean over the windows by weight; given in any unit, they
    are made so. Where nothing is known of a tensor (all 0 or NaN) they are 1. `texts`: the name of each window's text.
    `weights`: how much each window counts.

    Raises InvalidInput if the lengths differ, there is no window, or a number is negative or infinite.

    >>> FisherLevels([[1.0, 3.0], [0.0, 0.0]], ("prose", "code"), [1.0, 1.0]).levels.tolist()
    [[0.5, 1.5], [1.0, 1.0]]
    """

    levels: Float64[np.ndarray, "tensors windows"]
    texts: tuple[str, ...]
    weights: Float64[np.ndarray, " windows"]

    def __post_init__(self) -> None:
        arrays = read_only_copies({"levels": (self.levels, np.float64), "weights": (self.weights, np.float64)})
        levels, weights = arrays["levels"], arrays["weights"]
        texts = tuple(self.texts)
        if levels.ndim != 2 or levels.shape[1:] != weights.shape or len(texts) != weights.size or not texts:
            shapes = f"levels of shape {levels.shape}, {len(texts)} texts and weights of shape {weights.shape}"
            raise_faults([Fault("levels of Fisher information", f"{shapes} are not of the same windows")])
        if not (weights >= 0).all() or not 0 < weights.sum() < np.inf or (levels < 0).any() or np.isinf(levels).any():
            raise_faults([Fault("levels of Fisher information", "hold a number that is negative or infinite")])
        means = np.nan_to_num(levels) @ weights / weights.sum()
        relative = np.ones(levels.shape)
        np.divide(levels, means[:, None], out=relative, where=(means > 0)[:, None] & ~np.isnan(levels))
        relative.setflags(write=False)
        for name, value in (("levels", relative), ("texts", texts), ("weights", weights)):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class Profile:
    """Measured facts of one model.

    `relative_errors` [tensors × types]: Σ h (W - Ŵ)² / Σ h W², h the importance of an input column; infinite where
    the type is not possible. `energies`: Σ h W² per tensor. `sensitivities`: nats per token of the whole model per
    unit of relative error, NaN where not measured; `sensitivity_errors` their standard errors.
    `provenance` holds the origin of the numbers (digests, versions), for reports. `sampling_errors`
    [tensors × types]: standard errors of the relative errors where only some rows were measured, 0 where all were;
    None when all rows of all tensors were. `fisher`: losses by Fisher information; None where none was collected.
    `levels`: how these vary over windows of text, None where it was not kept; it decides no allocation, so the digest
    leaves it out. Lists are converted; the profile keeps read-only copies of all arrays.

    Raises InvalidInput with every fault.

    >>> from raq_solver import Tensor, loss_model, quant_type
    >>> tensors = (Tensor("output.weight", (256, 4), quant_type("F16")),)
    >>> types = (quant_type("Q8_0"), quant_type("Q4_K"))
    >>> profile = Profile(tensors, types, [[1e-5, 4e-3]], [7.0], [np.nan], [np.nan])
    >>> profile.sizes.tolist()
    [[1088, 576]]
    >>> loss_model("relative")(profile).losses.tolist()
    [[1e-05, 0.004]]
    """

    tensors: tuple[Tensor, ...]
    quant_types: tuple[QuantType, ...]
    relative_errors: Float64[np.ndarray, "tensors types"]
    energies: Float64[np.ndarray, " tensors"]
    sensitivities: Float64[np.ndarray, " tensors"]
    sensitivity_errors: Float64[np.ndarray, " tensors"]
    provenance: Mapping[str, str] = field(default_factory=dict)
    sampling_errors: Float64[np.ndarray, "tensors types"] | None = None
    fisher: FisherLosses | None = None
    levels: FisherLevels | None = None

    def __post_init__(self) -> None:
        raise_faults(self._kind_faults())
        arrays: dict[str, tuple[object, type[np.float64]]] = {
            name: (getattr(self, name), np.float64)
            for name in ("relative_errors", "energies", "sensitivities", "sensitivity_errors", "sampling_errors")
            if getattr(self, name) is not None or name != "sampling_errors"
        }
        for name, array in read_only_copies(arrays).items():
            object.__setattr__(self, name, array)
        object.__setattr__(self, "tensors", tuple(self.tensors))
        object.__setattr__(self, "quant_types", tuple(self.quant_types))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        raise_faults(self._faults())

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "tensors types"]:
        """Exact bytes of each tensor at each type; 0 where the rows do not divide into its blocks. Read-only."""
        in_block = np.array([q.weights_per_block for q in self.quant_types], dtype=np.int64)
        bytes_of_block = np.array([q.bytes_per_block for q in self.quant_types], dtype=np.int64)
        sizes = np.where(self._fitting, self.weights[:, None] // in_block * bytes_of_block, 0)
        sizes.setflags(write=False)
        return sizes

    @property
    def _fitting(self) -> Bool[np.ndarray, "tensors types"]:
        """Whether rows of the tensor divide into whole blocks of the type."""
        rows = np.array([tensor.row_length for tensor in self.tensors], dtype=np.int64)
        fitting: Bool[np.ndarray, "tensors types"] = (
            rows[:, None] % np.array([q.weights_per_block for q in self.quant_types], dtype=np.int64) == 0
        )
        return fitting

    @property
    def weights(self) -> Int64[np.ndarray, " tensors"]:
        """Weights of each tensor."""
        return np.array([tensor.weights for tensor in self.tensors], dtype=np.int64)

    @property
    def has_importance(self) -> bool:
        """Whether errors and energies count columns by importance (some tensors may lack it all the same)."""
        return self.provenance.get("imatrix", "none") != "none"

    @property
    def sampling_shares(self) -> Float64[np.ndarray, "tensors types"]:
        """Standard errors of the relative errors from measuring a sample, as shares of these; 0 where there is none."""
        shares = np.zeros(self.relative_errors.shape)
        if self.sampling_errors is not None:
            known = np.isfinite(self.relative_errors) & (self.relative_errors > 0)
            np.divide(self.sampling_errors, self.relative_errors, out=shares, where=known)
        return shares

    def digest(self) -> str:
        """SHA-256 over a canonical form: equal digests mean the same profile."""
        header = {
            "tensors": [(t.name, t.shape, t.source_type.name) for t in self.tensors],
            "quant_types": [q.name for q in self.quant_types],
            "provenance": dict(self.provenance),
        }
        state = hashlib.sha256(b"raq profile 1\0" + json.dumps(header, sort_keys=True).encode())
        for array in self._arrays():
            # One pattern of bits for NaN: there are many.
            state.update(np.where(np.isnan(array), np.nan, array).astype("<f8").tobytes())
        return state.hexdigest()

    def _arrays(self) -> tuple[np.ndarray, ...]:
        always = self.relative_errors, self.energies, self.sensitivities, self.sensitivity_errors
        sampled = () if self.sampling_errors is None else (self.sampling_errors,)
        return (*always, *sampled, *(() if self.fisher is None else self.fisher.arrays))

    def _kind_faults(self) -> list[Fault]:
        faults = []
        for name, kind in (("tensors", Tensor), ("quant_types", QuantType)):
            given = getattr(self, name)
            if not isinstance(given, list | tuple) or not all(isinstance(each, kind) for each in given):
                faults.append(Fault(name, f"must be a tuple of {kind.__name__}"))
        if not isinstance(self.provenance, Mapping):
            faults.append(Fault("provenance", "must be a mapping of text to text"))
        if not isinstance(self.fisher, FisherLosses | None):
            faults.append(Fault("fisher", "must be FisherLosses or None"))
        if not isinstance(self.levels, FisherLevels | None):
            faults.append(Fault("levels", "must be FisherLevels or None"))
        return faults

    def _faults(self) -> list[Fault]:
        shape = (len(self.tensors), len(self.quant_types))
        arrays = self._arrays()
        expected = [shape, shape[:1], shape[:1], shape[:1]]
        expected += [] if self.sampling_errors is None else [shape]
        expected += [] if self.fisher is None else [shape, shape[:1]]
        expected += [] if self.fisher is None or self.fisher.inputs is None else [(shape[0], len(INPUT_BLOCKS))]
        if [array.shape for array in arrays] != expected:
            shapes = ", ".join(str(array.shape) for array in arrays)
            return [Fault("profile", f"{shape[0]} tensors × {shape[1]} types, but arrays have shapes {shapes}")]
        weights = sum(tensor.weights for tensor in self.tensors)
        if weights > LARGEST:  # sizes would leave the range of their arrays
            return [Fault("profile", "holds more than 2^53 weights; at most 2^53 are supported")]
        faults = repeated("tensor", [tensor.name for tensor in self.tensors])
        faults += repeated("quant type", [quant_type.name for quant_type in self.quant_types])
        if self.levels is not None and len(self.levels.levels) != len(self.tensors):
            faults.append(Fault("profile", f"has {shape[0]} tensors, but levels of {len(self.levels.levels)}"))
        if self.sampling_errors is not None and not (self.sampling_errors >= 0).all():
            faults.append(Fault("profile", "holds a standard error that is negative or not a number"))
        if self.fisher is not None and any((each < 0).any() or np.isinf(each).any() for each in self.fisher.arrays):
            faults.append(Fault("profile", "holds a loss by Fisher information that is negative or infinite"))
        return faults + [fault for row in self._faulty_rows() for fault in self._faults_of_row(row)]

    def _faulty_rows(self) -> list[int]:
        """Rows with a fault: found for all at once, as most profiles have none."""
        errors, sensitivities = self.relative_errors, self.sensitivities
        possible = np.isfinite(errors)
        faulty = (np.isnan(errors) | (errors < 0) | possible & ~self._fitting).any(axis=1) | ~possible.any(axis=1)
        return np.flatnonzero(faulty | np.isinf(sensitivities) | (sensitivities < 0)).tolist()

    def _faults_of_row(self, row: int) -> list[Fault]:
        tensor, errors, sensitivity = self.tensors[row], self.relative_errors[row], self.sensitivities[row]
        faults = []
        if np.isnan(errors).any() or (errors < 0).any():
            faults.append(Fault(tensor.name, "has a relative error that is negative or not a number"))
        faults += [
            Fault(tensor.name, f"rows of {tensor.row_length} weights can't be stored as {q.name}")
            for q, error in zip(self.quant_types, errors, strict=True)
            if np.isfinite(error) and not q.fits(tensor.row_length)
        ]
        if not np.isfinite(errors).any():
            faults.append(Fault(tensor.name, "has no possible quant type"))
        if np.isinf(sensitivity) or sensitivity < 0:
            faults.append(Fault(tensor.name, f"sensitivity {sensitivity}; must be at least 0"))
        return faults
