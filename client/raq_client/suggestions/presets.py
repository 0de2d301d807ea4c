"""Presets: budgets with a name, defined by the predicted KL divergence that they allow.

Where the losses of a model are not in nats per token, a preset is its bits per weight instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from raq_client.models.table import ModelTable
from raq_client.planning.memory_budget import Serving, memory_terms
from raq_client.planning.memory_shape import memory_shape
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import Ledger
from raq_solver.budget import BitsPerWeight
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits, Termination
from raq_solver.losses import LossUnit
from raq_solver.make_problem import capacity_in
from raq_solver.problem import Problem
from raq_solver.solve import NO_LIMITS


@dataclass(frozen=True, slots=True)
class Preset:
    """A budget with a name: the most predicted KL divergence, in nats per token, and bits per weight in its stead."""

    name: str
    most_loss: float
    bits: Fraction


PRESETS: Final = (
    Preset("smallest", 0.1, Fraction("3.5")),
    Preset("recommended", 0.02, Fraction("4.8")),
    Preset("near lossless", 0.002, Fraction("6.6")),
)
"""All presets, smallest first. For comparison: llama.cpp's Q4_K_M of models of 0.1 to 0.5 billion weights was measured
between 0.01 and 0.07 nats per token (docs/quality.md)."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A preset for one model.

    `ledger` is the allocation, None if none reaches the loss; `proven` whether no smaller one does (of a preset by
    bits: no better one). `memory` is the device memory in bytes with the weights, None where it can't be computed.
    """

    preset: Preset
    by_loss: bool
    ledger: Ledger | None
    proven: bool
    memory: int | None


def fill_presets(
    problem: Problem,
    table: ModelTable,
    serving: Serving,
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
    presets: Sequence[Preset] = PRESETS,
) -> tuple[Filled, ...]:
    """The presets for a model that runs as `serving` states; constraints of the problem hold, its capacity does not."""
    more = _memory_besides_weights(table, serving)
    found = []
    for preset in presets:
        by_loss = problem.table.unit is LossUnit.NATS
        if by_loss:
            open_size = replace(problem, capacity_bytes=capacity_in(problem.table, None))
            smallest = solver.smallest_size(open_size, preset.most_loss, limits)
            ledger, proven = smallest.ledger, smallest.termination is Termination.OPTIMAL
        else:
            capacity = capacity_in(problem.table, BitsPerWeight(preset.bits))
            outcome = solver.solve(replace(problem, capacity_bytes=capacity), limits)
            ledger, proven = outcome.ledger, outcome.termination is Termination.OPTIMAL
        memory = None if ledger is None or more is None else ledger.size + more
        found.append(Filled(preset, by_loss, ledger, proven, memory))
    return tuple(found)


def _memory_besides_weights(table: ModelTable, serving: Serving) -> int | None:
    try:
        return sum(term.size for term in memory_terms(memory_shape(table), serving))
    except InvalidInput:  # an architecture whose cache raq can't compute
        return None
