"""Raises: tensors given larger types, with the exact bytes and the change in predicted loss."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raq_client.suggestions.units import Unit
from raq_solver.allocation import Allocation
from raq_solver.constraints import tie_groups
from raq_solver.errors import Fault, InvalidInput, near_misses
from raq_solver.problem import Problem


@dataclass(frozen=True, slots=True)
class Move:
    """One tensor's change of type: bytes added, and the change in predicted loss (negative: better)."""

    tensor: str
    before: str
    after: str
    size: int
    loss: float


@dataclass(frozen=True, slots=True)
class Raise:
    """The raise of one unit, as the moves of its tensors. Tensors tied to them move along."""

    unit: Unit
    moves: tuple[Move, ...]

    @property
    def size(self) -> int:
        """Bytes added."""
        return sum(move.size for move in self.moves)

    @property
    def loss(self) -> float:
        """Change in predicted loss; negative is better."""
        return math.fsum(move.loss for move in self.moves)

    @property
    def price(self) -> float:
        """Predicted loss that a byte saves; 0 without moves."""
        return -self.loss / self.size if self.size > 0 else 0.0


class Raises:
    """The raises that are possible from one allocation under the constraints on single tensors, ties among them."""

    def __init__(self, problem: Problem, start: Allocation) -> None:
        table = problem.table
        self._table = table
        self._at = problem.columns_of(start)
        self._allowed = problem.allowed()
        self._tied = {name: group for group in tie_groups(problem.constraints) for name in group}

    def raised(self, unit: Unit, movable: Iterable[str], quant_type: str | None = None) -> Raise:
        """The raise of a unit's `movable` tensors to `quant_type`, or of each by its best bargain.

        The best bargain of a tensor is the larger type that saves most predicted loss per added byte. Tensors that
        already have as many bytes, or may not have the type, stay; so do those that no larger type makes better.
        Raises InvalidInput for a type that the table does not have.
        """
        if quant_type is not None and quant_type not in self._table.column_of:
            known = near_misses(quant_type, self._table.quant_types)
            raise InvalidInput(Fault(quant_type, f"is not among the types offered{known}; add it to --types"))
        may_move = set(movable)
        groups = dict.fromkeys(self._tied.get(name, (name,)) for name in unit.tensors if name in may_move)
        moves: list[Move] = []
        for group in groups:
            column = self._column(group, quant_type)
            moves += () if column is None else [self._move(name, column) for name in group]
        return Raise(unit, tuple(move for move in moves if move.before != move.after))

    def after(self, start: Allocation, raises: Sequence[Raise]) -> Allocation:
        """The allocation with all these raises carried out."""
        moved = {move.tensor: move.after for one in raises for move in one.moves}
        return Allocation({name: moved.get(name, chosen) for name, chosen in start.types.items()})

    def _column(self, group: Sequence[str], quant_type: str | None) -> int | None:
        """The column of the type to raise tensors with a common type to; None if they stay."""
        rows = [self._table.row_of[name] for name in group]
        possible = self._allowed[rows].all(axis=0)
        sizes, losses = self._table.sizes[rows].sum(axis=0), self._table.losses[rows].sum(axis=0)
        now = (rows, self._at[rows])
        size, loss = int(self._table.sizes[now].sum()), float(self._table.losses[now].sum())
        better = possible & (sizes > size)
        if quant_type is not None:
            column = self._table.column_of[quant_type]
            return column if better[column] else None
        better &= losses < loss
        if not better.any():
            return None
        saved = np.full(sizes.size, -np.inf)
        np.divide(loss - losses, sizes - size, out=saved, where=better)
        return int(np.argmax(saved))

    def _move(self, name: str, column: int) -> Move:
        row = self._table.row_of[name]
        at = int(self._at[row])
        return Move(
            name,
            self._table.quant_types[at],
            self._table.quant_types[column],
            int(self._table.sizes[row, column] - self._table.sizes[row, at]),
            float(self._table.losses[row, column] - self._table.losses[row, at]),
        )
