"""The solver client for this process, with the interface of `raq_client.solver_client.remote.Client`."""

from collections.abc import Iterator, Sequence

from raq_solver.allocation import Allocation
from raq_solver.budget import Budget, capacity_bytes
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.questions.audit import Audit, audit
from raq_solver.questions.explain import (
    Conflict,
    Costs,
    TensorReasons,
    constraint_costs,
    explain_conflict,
    explain_tensor,
)
from raq_solver.questions.ladder import Ladder, nested_ladder
from raq_solver.questions.smallest_size import Smallest, smallest_size
from raq_solver.questions.sweep import Point, sweep
from raq_solver.questions.worst_case import Domains, WorstCase, solve_worst_case
from raq_solver.solve import NO_LIMITS, solve


class LocalSolver:
    """Answers questions in this process; each method calls the function of `raq_solver` of the same name."""

    def solve(self, question: Problem, limits: Limits = NO_LIMITS) -> Outcome:
        """Find the allocation of least loss that fits the budget."""
        return solve(question, limits)

    def solve_worst_case(self, question: Domains, limits: Limits = NO_LIMITS) -> WorstCase:
        """The allocation within the capacity with the smallest worst-domain loss."""
        return solve_worst_case(question, limits)

    def sweep(self, question: Problem, budgets: Sequence[Budget], limits: Limits = NO_LIMITS) -> Iterator[Point]:
        """The optimum of each budget, in order, as it is proven; the question's own budget is ignored."""
        return sweep(question, _capacities(question, budgets), limits)

    def smallest_size(self, question: Problem, most_loss: float, limits: Limits = NO_LIMITS) -> Smallest:
        """The smallest allocation whose loss is at most `most_loss` (nats per token) and that fits the budget."""
        return smallest_size(question, most_loss, limits)

    def explain_tensor(self, question: Problem, tensor: str, limits: Limits = NO_LIMITS) -> TensorReasons:
        """Why a tensor has its type, the cost of every other type, and the budgets at which its type changes."""
        return explain_tensor(question, tensor, limits)

    def constraint_costs(self, question: Problem, limits: Limits = NO_LIMITS) -> Costs:
        """The cost in loss of each constraint, of each source of constraints, and of all together."""
        return constraint_costs(question, limits)

    def explain_conflict(self, question: Problem, limits: Limits = NO_LIMITS) -> Conflict | None:
        """Why nothing fits; None if something does."""
        return explain_conflict(question, limits)

    def audit(self, question: Problem, allocation: Allocation, limits: Limits = NO_LIMITS) -> Audit:
        """Compare an allocation with the best one of its own size; the question's budget is ignored."""
        return audit(question, allocation, limits)

    def nested_ladder(self, question: Problem, budgets: Sequence[Budget], limits: Limits = NO_LIMITS) -> Ladder:
        """The nested ladder of least total loss over rising budgets; the question's own budget is ignored."""
        return nested_ladder(question, _capacities(question, budgets), limits)


def _capacities(question: Problem, budgets: Sequence[Budget]) -> list[int]:
    return [capacity_bytes(budget, question.table.total_weights) for budget in budgets]
