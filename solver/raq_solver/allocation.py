"""Who got what, and the exact account of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from raq_solver.budget import bits_per_weight
from raq_solver.errors import Fault, near_misses, raise_faults
from raq_solver.losses import LossTable


@dataclass(frozen=True, slots=True)
class Allocation:
    """A quant type for every tensor, in file order."""

    types: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", MappingProxyType(dict(self.types)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a ledger. `size` in bytes, `loss` in nats per token."""

    tensor: str
    quant_type: str
    weights: int
    size: int
    loss: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of an allocation: sizes as whole numbers, recomputed from the table, never from a solver."""

    entries: tuple[Entry, ...]
    capacity: int

    @property
    def size(self) -> int:
        """Bytes of tensor data."""
        return sum(entry.size for entry in self.entries)

    @property
    def slack(self) -> int:
        """Bytes of the capacity that are not used; negative when it does not fit."""
        return self.capacity - self.size

    @property
    def loss(self) -> float:
        """Predicted loss in nats per token."""
        return math.fsum(entry.loss for entry in self.entries)

    @property
    def weights(self) -> int:
        """Weights of the whole file; 0 when not known."""
        counts = [entry.weights for entry in self.entries]
        return sum(counts) if all(counts) else 0

    @property
    def bits_per_weight(self) -> Fraction | None:
        """Bits per weight, or None when the number of weights is not known."""
        return bits_per_weight(self.size, self.weights) if self.weights else None


def account(allocation: Allocation, table: LossTable, capacity: int) -> Ledger:
    """The ledger of an allocation.

    Raises InvalidInput for tensors missing or unknown, and for cells that the table does not offer.
    """
    column = {name: index for index, name in enumerate(table.quant_types)}
    faults = [
        Fault(name, f"not a tensor of the table{near_misses(name, table.tensors)}")
        for name in allocation.types.keys() - set(table.tensors)
    ]
    entries = []
    for row, name in enumerate(table.tensors):
        chosen = allocation.types.get(name)
        if chosen is None:
            faults.append(Fault(name, "has no quant type in the allocation"))
        elif chosen not in column or not math.isfinite(table.losses[row, column[chosen]]):
            faults.append(Fault(name, f"can't be stored as {chosen}"))
        else:
            cell = row, column[chosen]
            entries.append(
                Entry(
                    name,
                    chosen,
                    int(table.weights[row]),
                    int(table.sizes[cell]),
                    float(table.losses[cell]),
                )
            )
    raise_faults(sorted(faults, key=str))
    return Ledger(tuple(entries), capacity)
