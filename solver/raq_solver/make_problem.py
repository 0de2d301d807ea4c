"""From facts, a budget and constraints to a problem: the only maker of a `Problem` from what people ask for.

The client and the service both build through it, so equal requests are equal problems wherever they are solved.
"""

from collections.abc import Sequence

import numpy as np

from raq_solver.budget import BitsPerWeight, Budget, capacity_bytes
from raq_solver.constraints import Constraint
from raq_solver.errors import Fault, InvalidInput
from raq_solver.loss_models import default_loss_model, loss_model
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile


def make_problem(
    facts: Profile | LossTable,
    budget: Budget | None,
    constraints: Sequence[Constraint] = (),
    *,
    loss: str | None = None,
) -> Problem:
    """The problem of these facts: a profile, whose losses a loss model predicts, or a table of losses.

    `budget` None leaves the size open: the capacity is that of the largest choice of every tensor. `loss` is a name of
    `LOSS_MODELS`, None the default for what the profile holds; a table has its losses already.

    Raises InvalidInput with every fault.

    >>> from raq_solver import LossTable, Pin, parse_budget
    >>> table = LossTable(("a", "b"), ("Q4_K", "Q8_0"), [256, 256], [[144, 272]] * 2, [[0.2, 0.01], [0.1, 0.02]])
    >>> make_problem(table, parse_budget("6"), [Pin(("b",), "Q4_K")]).capacity_bytes
    384
    >>> make_problem(table, None).capacity_bytes
    544
    """
    table = predicted_losses(facts, loss) if isinstance(facts, Profile) else facts
    return Problem(table, capacity_in(table, budget), tuple(constraints))


def predicted_losses(profile: Profile, loss: str | None = None) -> LossTable:
    """The losses that the loss model of that name predicts, or the default one for None."""
    return (loss_model(loss) if loss else default_loss_model(profile))(profile)


def capacity_in(table: LossTable, budget: Budget | None) -> int:
    """The budget in bytes; for None the size of the largest choice of every tensor.

    Raises InvalidInput if the budget is per weight and the table does not hold numbers of weights.
    """
    if budget is None:
        return int(np.where(table.offered, table.sizes, 0).max(axis=1).sum())
    if isinstance(budget, BitsPerWeight) and not table.total_weights:
        raise InvalidInput(Fault("budget", "is per weight, but the table lacks numbers of weights; say it in bytes"))
    return capacity_bytes(budget, table.total_weights)
