"""Loss tables: the size in bytes and the predicted loss of each tensor at each quant type.

Rules
- Rows are the tensors of the file, in file order. Tensors that can't be quantized are rows too (with one offered cell),
  so that sizes add up to the file's tensor data without a correction.
- A cell whose loss is infinite is not offered. A row without an offered cell is a fault.
- Sizes are exact bytes. Losses are finite and not negative where offered.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.arrays import LARGEST, Kind, names_of, read_only_copies, repeated
from raq_solver.errors import Fault, InvalidInput, raise_faults

_LARGEST_LOSS: Final = 1e250
"""Prices times bytes, as large as losses times 2^53, must stay within the range of a double."""


@unique
class LossUnit(StrEnum):
    """The unit of a table's losses, which decides what they can be compared with.

    Within a table losses of any unit add up and compare. Only `NATS` can be set against a measurement.

    >>> str(LossUnit.NATS)
    'nats per token'
    """

    NATS = "nats per token"
    """Predicted KL divergence of the model, comparable with a measured one."""
    NOMINAL_NATS = "nominal nats per token"
    """KL divergence up to an unknown common factor, because sensitivities were guessed and not measured."""
    RELATIVE_ERROR = "relative output error"
    """Squared error of a tensor's output relative to the output, unweighted."""
    ACTIVATION_CHANGE = "squared activation change"
    """Expected squared change of a tensor's output."""
    WEIGHTED_DOMAINS = "weighted losses of domains"
    """Losses of several domains, each over its reference and times its weight in a proof."""
    UNKNOWN = "unknown"
    """Not stated, as in tables that other tools made."""


@dataclass(frozen=True, eq=False)
class LossTable:
    """Sizes (bytes) and predicted losses, tensors × quant types.

    `weights` holds each tensor's number of weights, 0 where it is not known (then budgets and constraints in bits
    per weight can't be used). `source` describes, for reports, the origin of the losses. Lists are converted; the table
    keeps read-only copies of all arrays.

    Raises InvalidInput with every fault of the table.

    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, np.inf]])
    >>> table.offered.tolist()
    [[True, True], [True, False]]
    >>> table.total_weights, table.unit
    (512, <LossUnit.UNKNOWN: 'unknown'>)
    """

    tensors: tuple[str, ...]
    quant_types: tuple[str, ...]
    weights: Int64[np.ndarray, " tensors"]
    sizes: Int64[np.ndarray, "tensors types"]
    losses: Float64[np.ndarray, "tensors types"]
    source: str = ""
    unit: LossUnit = LossUnit.UNKNOWN

    def __post_init__(self) -> None:
        arrays: dict[str, tuple[object, Kind]] = {
            "weights": (self.weights, np.int64),
            "sizes": (self.sizes, np.int64),
            "losses": (self.losses, np.float64),
        }
        names = {name: names_of(getattr(self, name), name) for name in ("tensors", "quant_types")}
        for name, value in (names | {"unit": _unit(self.unit)} | read_only_copies(arrays)).items():
            object.__setattr__(self, name, value)
        raise_faults(self._faults())

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """The row of each tensor."""
        return {name: row for row, name in enumerate(self.tensors)}

    @cached_property
    def column_of(self) -> Mapping[str, int]:
        """The column of each quant type."""
        return {name: column for column, name in enumerate(self.quant_types)}

    @property
    def offered(self) -> Bool[np.ndarray, "tensors types"]:
        """Which cells may be chosen."""
        offered: Bool[np.ndarray, "tensors types"] = np.isfinite(self.losses)
        return offered

    @property
    def total_weights(self) -> int:
        """Weights of the whole file; 0 when some tensor's number is not known."""
        return 0 if np.any(self.weights == 0) else int(self.weights.sum())

    def digest(self) -> str:
        """SHA-256 over a canonical form: equal digests mean tables with the same answers.

        `source` and `unit`, on which no answer depends, are not part of it.
        """
        state = hashlib.sha256(b"raq loss table 1\0")
        for names in (self.tensors, self.quant_types):
            state.update("\0".join(names).encode() + b"\0\0")
        for array in (self.weights, self.sizes, self.losses):
            state.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
        return state.hexdigest()

    def _faults(self) -> list[Fault]:
        shape = (len(self.tensors), len(self.quant_types))
        if self.sizes.shape != shape or self.losses.shape != shape or self.weights.shape != shape[:1]:
            what = (
                f"{shape[0]} tensors × {shape[1]} types, but sizes have shape {self.sizes.shape}, "
                f"losses {self.losses.shape}, weights {self.weights.shape}"
            )
            return [Fault("loss table", what)]
        if not all(shape):
            return [Fault("loss table", "has no tensors" if not shape[0] else "has no quant types")]
        return [*self._name_faults(), *self._cell_faults()]

    def _name_faults(self) -> list[Fault]:
        faults = []
        for kind, names in (("tensor", self.tensors), ("quant type", self.quant_types)):
            faults += repeated(kind, names)
            faults += [Fault(f"{kind} {index}", "has no name") for index, name in enumerate(names) if not name]
        return faults

    def _cell_faults(self) -> list[Fault]:
        bad_loss = np.isnan(self.losses) | (self.losses < 0)
        bad_size = self.offered & (self.sizes <= 0)
        faults = [
            Fault(
                f"{self.tensors[t]} as {self.quant_types[q]}",
                f"loss is {self.losses[t, q]}; losses are at least 0 (infinite: not offered)",
            )
            for t, q in np.argwhere(bad_loss)
        ]
        faults += [
            Fault(
                f"{self.tensors[t]} as {self.quant_types[q]}",
                f"size is {self.sizes[t, q]} bytes; sizes are at least 1",
            )
            for t, q in np.argwhere(bad_size)
        ]
        faults += [
            Fault(self.tensors[t], "no quant type is offered (every loss is infinite)")
            for t in np.flatnonzero(~(self.offered | bad_loss).any(axis=1))
        ]
        faults += [Fault(self.tensors[t], f"has {self.weights[t]} weights") for t in np.flatnonzero(self.weights < 0)]
        return faults or self._total_faults()

    def _total_faults(self) -> list[Fault]:
        """Totals beyond the exact range of the solver's arithmetic."""
        faults = []
        largest = sum(np.where(self.offered, self.sizes, 0).max(axis=1).tolist())
        if largest > LARGEST:
            faults.append(Fault("loss table", f"sizes add up to {largest:,} bytes; at most 2^53 are supported"))
        weights = sum(self.weights.tolist())
        if weights > LARGEST:
            faults.append(Fault("loss table", f"holds {weights:,} weights; at most 2^53 are supported"))
        if sum(np.where(self.offered, self.losses, 0.0).max(axis=1).tolist()) > _LARGEST_LOSS:
            faults.append(Fault("loss table", "losses add up to more than 1e250; give them in a larger unit"))
        return faults


def _unit(given: object) -> LossUnit:
    for unit in LossUnit:
        if given == unit:
            return unit
    raise InvalidInput(Fault("unit", f"{given!r} is no unit of losses; there are {', '.join(LossUnit)}"))
