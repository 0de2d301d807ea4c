"""Allocations (tensor → quant type) and their exact size and loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple, Self

from raq_solver.budget import bits_per_weight
from raq_solver.errors import HINTS, Fault, InvalidInput, near_misses, raise_faults
from raq_solver.losses import LossTable
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Allocation:
    """A quant type for every tensor, in file order. Raises InvalidInput for anything but a mapping.

    >>> Allocation({"output.weight": "Q6_K"}).types["output.weight"]
    'Q6_K'
    """

    types: Mapping[str, str]

    def __post_init__(self) -> None:
        if not isinstance(self.types, Mapping):
            what = f"is a {type(self.types).__name__}; must be a mapping of tensor names to quant types"
            raise InvalidInput(Fault("allocation", what))
        object.__setattr__(self, "types", MappingProxyType(dict(self.types)))

    @classmethod
    def of(cls, types: Mapping[Tensor, QuantType]) -> Self:
        """The allocation that gives each tensor its type.

        >>> from raq_solver import quant_type
        >>> Allocation.of({Tensor("a", (256, 4), quant_type("F16")): quant_type("Q4_K")}).types["a"]
        'Q4_K'
        """
        return cls({tensor.name: chosen.name for tensor, chosen in types.items()})


class LedgerEntry(NamedTuple):
    """One line of a ledger. `size` in bytes, `loss` in the unit of the loss table.

    >>> LedgerEntry("output.weight", "Q4_K", weights=256, size=144, loss=0.1).size
    144
    """

    tensor: str
    quant_type: str
    weights: int
    size: int
    loss: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of an allocation: sizes as whole numbers, recomputed from the table, never from a solver.

    >>> ledger = Ledger((LedgerEntry("a", "Q4_K", 256, 144, 0.1), LedgerEntry("b", "Q8_0", 256, 272, 0.0)), 450)
    >>> ledger.size, ledger.slack, ledger.loss
    (416, 34, 0.1)
    """

    entries: tuple[LedgerEntry, ...]
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
        """Predicted loss, in the unit of the loss table."""
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

    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> account(Allocation({"a": "Q4_K", "b": "Q8_0"}), table, 450).size
    416
    """
    faults = [
        Fault(name, f"not a tensor of the table{near_misses(name, table.tensors) if number < HINTS else ''}")
        for number, name in enumerate(sorted(allocation.types.keys() - set(table.tensors)))
    ]
    entries = []
    for row, name in enumerate(table.tensors):
        chosen = allocation.types.get(name)
        if chosen is None:
            faults.append(Fault(name, "has no quant type in the allocation"))
            continue
        column = table.column_of.get(chosen)
        if column is None:
            what = f"{chosen} was not measured: the types of the table are {', '.join(table.quant_types)}"
            faults.append(Fault(name, what))
            continue
        if not math.isfinite(table.losses[row, column]):
            faults.append(Fault(name, f"can't be stored as {chosen}"))
            continue
        size, loss = int(table.sizes[row, column]), float(table.losses[row, column])
        entries.append(LedgerEntry(name, chosen, int(table.weights[row]), size, loss))
    raise_faults(sorted(faults, key=str))
    return Ledger(tuple(entries), capacity)
