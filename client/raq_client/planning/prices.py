"""What each kind of knowledge costs: the loss with its constraints, less the loss without them at the same capacity."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from raq_client.planning.premises import EXO
from raq_solver.allocation import Ledger
from raq_solver.constraints import Constraint, Source
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem

_GROUPS: Final[Mapping[str, Callable[[Constraint], bool]]] = MappingProxyType(
    {
        "architecture": lambda one: one.source is Source.ARCHITECTURE,
        "ratio": lambda one: one.source is Source.DATA,
        "exo": lambda one: one.reason.startswith(EXO),
    }
)


@dataclass(frozen=True, slots=True)
class Price:
    """What a group of constraints on `tensors` tensors costs.

    `loss` is the change of the predicted loss, None where nothing fits without them either. `taken` are the bytes that
    its tensors take more than they would get otherwise (negative: less), `rest` the loss that all other tensors pay.
    """

    group: str
    tensors: int
    loss: float | None
    taken: int
    rest: float


def prices(problem: Problem, outcome: Outcome, solve: Callable[[Problem], Outcome]) -> tuple[Price, ...]:
    """The prices of architecture rules, ratio and exo pins, as far as the problem has such constraints."""
    if outcome.ledger is None:
        return ()
    found = []
    for group, belongs in _GROUPS.items():
        named = {name for one in problem.constraints if belongs(one) for name in one.tensors}
        if named:
            kept = tuple(one for one in problem.constraints if not belongs(one))
            free = solve(replace(problem, constraints=kept)).ledger
            found.append(_price(group, named, outcome.ledger, free))
    return tuple(found)


def _price(group: str, named: set[str], with_it: Ledger, without: Ledger | None) -> Price:
    if without is None:
        return Price(group, len(named), None, 0, 0.0)
    before = {entry.tensor: entry for entry in without.entries}
    pairs = [(entry, before[entry.tensor]) for entry in with_it.entries]
    taken = sum(now.size - was.size for now, was in pairs if now.tensor in named)
    rest = sum(now.loss - was.loss for now, was in pairs if now.tensor not in named)
    return Price(group, len(named), with_it.loss - without.loss, taken, rest)
