"""What to raise: units ranked by a rule, their cost and gain, and the optimum of the same size beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raq_client.planning.build_problem import ProblemSpec
from raq_client.recipes.patterns import matching
from raq_client.solver_client.protocol import SolverClient
from raq_client.suggestions.raises import Move, Raise, Raises
from raq_client.suggestions.scores import Evidence, Rule, Score, scores
from raq_client.suggestions.units import Unit, UnitKind, units_of
from raq_solver.allocation import Allocation, Ledger, account
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.solve import NO_LIMITS


@dataclass(frozen=True, slots=True)
class Question:
    """What to suggest: `most` units of a kind, ranked by a rule.

    `quant_type` is the type to raise to; None raises each tensor by its best bargain. Only tensors that match one of
    `families` are raised, all if it is empty; the ranking regards whole units.
    """

    rule: Rule = Rule.PRICE
    kind: UnitKind = UnitKind.BLOCK
    most: int = 6
    quant_type: str | None = None
    families: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InvalidInput(Fault("top", f"{self.most} units; must be at least 1"))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A unit with its raise and its score; `chosen` are the first of the ranking that can be raised."""

    raised: Raise
    score: Score
    chosen: bool


@dataclass(frozen=True, eq=False)
class Suggestion:
    """The ranked units, and what the chosen ones come to.

    `start` is the allocation before; `after` the one with the chosen raises carried out. `best` is the allocation of
    least predicted loss of at most the size of `after`, under the same constraints.
    """

    question: Question
    problem: Problem
    start: Ledger
    after: Ledger
    best: Outcome
    ranking: tuple[Ranked, ...]

    @property
    def chosen(self) -> tuple[Ranked, ...]:
        """The units to raise, the first of the ranking first."""
        return tuple(one for one in self.ranking if one.chosen)

    @property
    def moves(self) -> tuple[Move, ...]:
        """The moves of all chosen units; a tensor that is tied to several units is listed once."""
        found = {move.tensor: move for one in self.chosen for move in one.raised.moves}
        return tuple(found.values())

    @property
    def best_moves(self) -> tuple[Move, ...]:
        """How the optimum of the same size differs from the start, most bytes added first."""
        if self.best.ledger is None:
            return ()
        pairs = zip(self.start.entries, self.best.ledger.entries, strict=True)
        moved = [
            Move(now.tensor, now.quant_type, new.quant_type, new.size - now.size, new.loss - now.loss)
            for now, new in pairs
            if now.quant_type != new.quant_type
        ]
        return tuple(sorted(moved, key=lambda move: -move.size))


def starting_point(spec: ProblemSpec, solver: SolverClient, limits: Limits = NO_LIMITS) -> Allocation:
    """The allocation that suggestions start from: the request's base, or else the best one of its budget.

    Raises InvalidInput if nothing fits the budget.
    """
    if spec.base is None:
        return solver.solve(spec.problem, limits).unwrap()[0]
    known = set(spec.problem.table.tensors)
    return Allocation({name: chosen for name, chosen in spec.base.allocation.types.items() if name in known})


def suggest(
    problem: Problem,
    start: Allocation,
    question: Question,
    evidence: Evidence,
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
) -> Suggestion:
    """Rank the units of a model, raise the first of them, and solve for the size that this takes.

    Raises InvalidInput if the start does not fit the table, data for the rule are missing, or nothing can be raised.
    """
    before = account(start, problem.table, problem.capacity_bytes)
    names = problem.table.tensors
    movable = matching(question.families, names, "family") if question.families else names
    units = units_of(names, question.kind)
    raises = Raises(problem, start)
    options = [raises.raised(unit, movable, question.quant_type) for unit in units]
    ranking = _ranking(options, units, question, evidence)
    chosen = [one.raised for one in ranking if one.chosen]
    if not chosen:
        raise InvalidInput(Fault("suggest", _nothing(question)))
    after = account(raises.after(start, chosen), problem.table, problem.capacity_bytes)
    posed = replace(problem, capacity_bytes=after.size)
    return Suggestion(question, problem, before, after, solver.solve(posed, limits), ranking)


def _ranking(
    options: Sequence[Raise], units: Sequence[Unit], question: Question, evidence: Evidence
) -> tuple[Ranked, ...]:
    """Raises by score, the highest first, of equal ones in file order; those without a score or moves are left out."""
    if question.rule is Rule.PRICE:
        found = {one.unit.name: Score(one.price) for one in options if one.price > 0}
    else:
        found = dict(scores(question.rule, units, question.kind, evidence))
    scored = [one for one in options if one.unit.name in found and one.moves]
    scored.sort(key=lambda one: -found[one.unit.name].value)
    return tuple(Ranked(one, found[one.unit.name], place < question.most) for place, one in enumerate(scored))


def _nothing(question: Question) -> str:
    kind = question.kind.value
    if question.quant_type is not None:
        return f"no {kind} can be raised to {question.quant_type}: all have as many bytes, or may not have the type"
    return f"no {kind} can be raised: no larger type is offered that makes any better"
