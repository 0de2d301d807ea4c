"""The loss table: what each tensor costs, in bytes and in predicted loss, at each quant type.

Rules
- Rows are the tensors of the file, in file order, also those that can't be quantized (one offered cell), so that
  sizes add up to the file's tensor data without a correction.
- A cell whose loss is infinite is not offered. A row without an offered cell is a fault.
- Sizes are exact bytes. Losses are nats per token, finite and not negative where offered.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.errors import Fault, raise_faults


@dataclass(frozen=True, eq=False)
class LossTable:
    """Sizes and predicted losses, tensors × quant types.

    `weights` holds each tensor's number of weights, 0 where it is not known (then budgets and constraints in bits
    per weight can't be used). `source` says where the losses come from, in words for the report.

    Raises InvalidInput with every fault of the table.
    """

    tensors: tuple[str, ...]
    quant_types: tuple[str, ...]
    weights: Int64[np.ndarray, " tensors"]
    sizes: Int64[np.ndarray, "tensors types"]
    losses: Float64[np.ndarray, "tensors types"]
    source: str = ""

    def __post_init__(self) -> None:
        raise_faults(self._kind_faults())
        for name, kind in (("weights", np.int64), ("sizes", np.int64), ("losses", np.float64)):
            array = np.array(getattr(self, name), dtype=kind)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
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
        """SHA-256 over a canonical form: equal digests mean the same table."""
        state = hashlib.sha256(b"raq loss table 1\0")
        for names in (self.tensors, self.quant_types):
            state.update("\0".join(names).encode() + b"\0\0")
        for array in (self.weights, self.sizes, self.losses):
            state.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
        return state.hexdigest()

    def _kind_faults(self) -> list[Fault]:
        arrays = {"weights": self.weights, "sizes": self.sizes, "losses": self.losses}
        kinds = {"weights": "iu", "sizes": "iu", "losses": "fiu"}
        return [
            Fault(name, f"holds {array.dtype}; must hold {'numbers' if name == 'losses' else 'whole numbers'}")
            for name, array in arrays.items()
            if array.dtype.kind not in kinds[name]
        ]

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
            faults += [
                Fault(name, f"{kind} listed {count} times") for name, count in Counter(names).items() if count > 1
            ]
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
        """Totals that the arithmetic of the solver can't hold."""
        faults = []
        largest = sum(np.where(self.offered, self.sizes, 0).max(axis=1).tolist())
        if largest >= 2**53:
            faults.append(Fault("loss table", f"sizes add up to {largest:,} bytes; at most 2^53 can be reckoned with"))
        if not math.isfinite(sum(np.where(self.offered, self.losses, 0.0).max(axis=1).tolist())):
            faults.append(Fault("loss table", "losses add up to more than a double can hold"))
        return faults
