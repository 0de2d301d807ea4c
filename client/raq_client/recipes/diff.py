"""Moves from a base: which tensors may change, what each move costs and gains, and which data support it.

The terms are those of the RA articles: a base recipe, demotions that free bytes, promotions that spend them, and a
sink of bytes that are freed and not yet spent.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from fractions import Fraction

from raq_solver.allocation import Allocation
from raq_solver.constraints import Ceiling, Floor, Pin, Source
from raq_solver.errors import Fault, raise_faults
from raq_solver.losses import LossTable
from raq_solver.quant_types import CATALOGUE, stored_type
from raq_solver.tensor_names import role_of

_BIG: float = 0.5
"""A role with at least this share of all spent bytes is the big move."""


MoveConstraint = Pin | Ceiling | Floor
"""A constraint on the direction in which a tensor may move from the base."""


@unique
class Stage(Enum):
    """The stages in which moves are listed."""

    FOUNDATION = "demotions: bytes that cost little"
    BUILD_UP = "promotions, the best bargain first"
    BIG_MOVE = "the role that takes most of what is spent"


@dataclass(frozen=True, slots=True)
class Line:
    """One tensor's move. `size` is the change in bytes (negative: freed), `loss` the change in predicted loss.

    `sink` is the number of unspent bytes after this move.
    """

    stage: Stage
    tensor: str
    before: str
    after: str
    size: int
    loss: float
    sink: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """All moves from a base to an allocation, in order. `opening` is the sink before the first: capacity minus base."""

    lines: tuple[Line, ...]
    opening: int

    @property
    def freed(self) -> int:
        """Bytes freed by demotions."""
        return freed_and_spent(line.size for line in self.lines)[0]

    @property
    def spent(self) -> int:
        """Bytes spent on promotions."""
        return freed_and_spent(line.size for line in self.lines)[1]

    @property
    def sink(self) -> int:
        """Bytes left at the end; negative if the allocation is over capacity."""
        return self.opening + self.freed - self.spent

    @property
    def loss(self) -> float:
        """Change in predicted loss; negative is better."""
        return sum(line.loss for line in self.lines)


def freed_and_spent(changes: Iterable[int]) -> tuple[int, int]:
    """Bytes freed and bytes spent by changes of size.

    >>> freed_and_spent([-3, 5, 0, -1])
    (4, 5)
    """
    sizes = list(changes)
    return -sum(size for size in sizes if size < 0), sum(size for size in sizes if size > 0)


def move_constraints(
    base: Allocation, table: LossTable, *, demote: Iterable[str], promote: Iterable[str]
) -> tuple[MoveConstraint, ...]:
    """Constraints that let candidates move from the base in one direction, and pin all other tensors to it.

    Their source is DATA: they come from measured importance. Raises InvalidInput with every tensor whose base type the
    table does not offer, and every candidate that is not a tensor or is both demoted and promoted.
    """
    down, up = set(demote), set(promote)
    faults = [Fault(name, "a candidate, but not a tensor of the table") for name in (down | up) - set(table.tensors)]
    faults += [Fault(name, "both demoted and promoted") for name in down & up]
    pinned, at_most, at_least = defaultdict(list), defaultdict(list), defaultdict(list)
    for name in table.tensors:
        present = base.types.get(name, "")
        column = table.column_of.get(present)
        if column is None or not table.offered[table.row_of[name], column]:
            what = f"{present or 'nothing'} in the base, which is not among the types offered; add it to --types"
            faults.append(Fault(name, what))
        elif name in down:
            at_most[present].append(name)
        elif name in up:
            at_least[present].append(name)
        elif table.offered[table.row_of[name]].sum() > 1:
            pinned[present].append(name)
    raise_faults(sorted(faults, key=str))
    reason = "candidate of the importance ratio"
    return (
        *(Pin(tuple(t), name, Source.DATA, "no candidate: stays as the base has it") for name, t in pinned.items()),
        *(Ceiling(tuple(t), _bits(name), Source.DATA, f"{reason}: demote") for name, t in at_most.items()),
        *(Floor(tuple(t), _bits(name), Source.DATA, f"{reason}: promote") for name, t in at_least.items()),
    )


def exchange(base: Allocation, after: Allocation, table: LossTable, capacity: int) -> Exchange:
    """The moves that lead from the base to an allocation, in the order of their stages.

    Demotions come first, least loss per freed byte first; then promotions, most gain per spent byte first; a role with
    at least half of all spent bytes comes last. Losses of types that the table does not offer are unknown (NaN).
    Raises InvalidInput with every tensor that is missing in one of the allocations.
    """
    faults = [
        Fault(name, f"has no type in the {title}")
        for title, allocation in (("base", base), ("allocation", after))
        for name in table.tensors
        if name not in allocation.types
    ]
    raise_faults(faults)
    moved = [_line(name, base.types[name], after.types[name], table) for name in table.tensors]
    moved = [line for line in moved if line.before != line.after]
    big = _big_role([line for line in moved if line.size > 0])
    staged = [
        (Stage.FOUNDATION if one.size <= 0 else Stage.BIG_MOVE if role_of(one.tensor) == big else Stage.BUILD_UP, one)
        for one in moved
    ]
    order = list(Stage)
    staged.sort(key=lambda pair: (order.index(pair[0]), _bargain(pair[1]), pair[1].tensor))
    sink = opening = capacity - sum(stored_size(name, base.types[name], table) for name in table.tensors)
    lines = []
    for stage, one in staged:
        sink -= one.size
        lines.append(Line(stage, one.tensor, one.before, one.after, one.size, one.loss, sink))
    return Exchange(tuple(lines), opening)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The direction that each source suggests for a tensor: 1 more bits, -1 fewer, 0 neither, None unknown."""

    tensor: str
    ratio: int | None
    sensitivity: int | None
    base: int

    @property
    def converges(self) -> bool:
        """Whether no two sources point in opposite directions and at least two point the same way."""
        signs = [sign for sign in (self.ratio, self.sensitivity, self.base) if sign]
        return len(signs) >= 2 and len(set(signs)) == 1

    @property
    def conflicts(self) -> bool:
        """Whether two sources point in opposite directions."""
        return {1, -1} <= {self.ratio, self.sensitivity, self.base}


def convergence(
    base: Allocation,
    weights: Mapping[str, int],
    *,
    demote: Iterable[str],
    promote: Iterable[str],
    rated: Iterable[str],
    sensitivities: Mapping[str, float],
) -> tuple[Agreement, ...]:
    """The directions of importance ratio, measured sensitivity and base for each tensor that the base quantized.

    `rated` are the tensors with a ratio. A sensitivity points up for the quarter of tensors with the largest
    sensitivity per weight, and down for the quarter with the smallest. A base points up if it gives the tensor more
    bits than most weights have, down if fewer.
    """
    up, down, known = set(promote), set(demote), set(rated)
    quantized = [n for n, kind in base.types.items() if kind in CATALOGUE and CATALOGUE[kind].weights_per_block > 1]
    per_weight = {name: sensitivities[name] / weights[name] for name in quantized if name in sensitivities}
    ranks = sorted(per_weight, key=lambda name: per_weight[name])
    quarter = len(ranks) // 4
    low, high = set(ranks[:quarter]), set(ranks[len(ranks) - quarter :])
    usual = _usual_bits(base, quantized, weights)
    return tuple(
        Agreement(
            tensor=name,
            ratio=(name in up) - (name in down) if name in known else None,
            sensitivity=(name in high) - (name in low) if name in per_weight else None,
            base=(_bits(base.types[name]) > usual) - (_bits(base.types[name]) < usual),
        )
        for name in quantized
    )


def _usual_bits(base: Allocation, quantized: Sequence[str], weights: Mapping[str, int]) -> Fraction:
    total: dict[Fraction, int] = defaultdict(int)
    for name in quantized:
        total[_bits(base.types[name])] += weights[name]
    return max(total, key=lambda bits: (total[bits], -bits), default=Fraction(0))


@dataclass(frozen=True, slots=True)
class _Moved:
    tensor: str
    before: str
    after: str
    size: int
    loss: float


def _line(name: str, before: str, after: str, table: LossTable) -> _Moved:
    size = stored_size(name, after, table) - stored_size(name, before, table)
    return _Moved(name, before, after, size, _loss(name, after, table) - _loss(name, before, table))


def stored_size(name: str, quant_type: str, table: LossTable) -> int:
    """Bytes of a tensor at a type, even if the table does not offer it."""
    column = table.column_of.get(quant_type)
    if column is not None and table.sizes[table.row_of[name], column] > 0:
        return int(table.sizes[table.row_of[name], column])
    return stored_type(quant_type).size(int(table.weights[table.row_of[name]]))


def _loss(name: str, quant_type: str, table: LossTable) -> float:
    column = table.column_of.get(quant_type)
    offered = column is not None and table.offered[table.row_of[name], column]
    return float(table.losses[table.row_of[name], column]) if offered else math.nan


def _bargain(moved: _Moved) -> float:
    """Sort key: loss per byte freed, or minus the gain per byte spent; unknown losses come last."""
    price = moved.loss / abs(moved.size) if moved.size else moved.loss
    return math.inf if math.isnan(price) else price


def _big_role(promotions: Sequence[_Moved]) -> str | None:
    spent: dict[str, int] = defaultdict(int)
    for moved in promotions:
        spent[role_of(moved.tensor)] += moved.size
    role = max(spent, key=lambda role: spent[role], default=None)
    # A single role with all promotions is not listed as a separate last stage.
    return role if role is not None and len(spent) > 1 and spent[role] >= _BIG * sum(spent.values()) else None


def _bits(quant_type: str) -> Fraction:
    return CATALOGUE[quant_type].bits_per_weight
