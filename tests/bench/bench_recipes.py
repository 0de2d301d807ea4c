"""The article's ladder against the optimum of the same bytes, by published sensitivities of the same model.

Losses come from Thireus' GGUF Tool Suite and its contributors (https://github.com/Thireus/GGUF-Tool-Suite): the KL
divergence of Qwen3.6-27B with one tensor crushed to iq1_kt, times the ratio of the whole model's at each type. Run:

    pytest -m bench -s tests/bench/bench_recipes.py
"""

import csv
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from raq_client.models.quantizable import is_quantizable
from raq_client.models.read_table import read_table
from raq_client.models.table import ModelTable
from raq_client.recipes.diff import exchange
from raq_client.recipes.recipe_file import read_recipe
from raq_client.recipes.steps import RecipeStep, carry_out
from raq_solver.allocation import Allocation, account
from raq_solver.budget import bits_per_weight
from raq_solver.loss_models import measured
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE
from raq_solver.questions.smallest_size import smallest_size
from raq_solver.solve import solve
from raq_solver.tensor_names import role_of
from raq_solver.verify import verify
from support.machine import header

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

RECIPE_TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K")
MORE_TYPES = (*RECIPE_TYPES, "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K")
CRUSHED = "iq1_kt"


@dataclass(frozen=True, eq=False)
class Published:
    """The model's table, its measured tensors, and the whole model's KL divergence at each type."""

    table: ModelTable
    crushed: dict[str, float]
    whole: dict[str, float]

    def losses(self, names: tuple[str, ...]) -> LossTable:
        """Nats per token of storing each tensor as each type; F16 counts as nothing lost, as BF16 does there."""
        columns = [CATALOGUE["F32"], *(CATALOGUE[name] for name in names)]
        quantized = [
            0.0 if one.name == "F32" else self.whole[one.name.casefold()] / self.whole[CRUSHED] for one in columns
        ]
        errors = np.full((len(self.table.tensors), len(columns)), np.inf)
        for row, tensor in enumerate(self.table.tensors):
            if is_quantizable(tensor, self.table.architecture):
                errors[row, 1:] = quantized[1:]
            else:
                errors[row, 0] = 0.0
        found = np.array([self.crushed.get(tensor.name, 0.0) for tensor in self.table.tensors])
        ones = np.ones_like(found)
        return measured(Profile(self.table.tensors, tuple(columns), errors, ones, found, np.zeros_like(found)))


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Published:
    folder = shared_data / "sensitivity" / "Qwen3.6-27B"
    (row,) = csv.DictReader((folder / "per_tensor.csv").read_text().splitlines())
    assert row.pop("QTYPE") == CRUSHED
    curve = csv.reader((folder / "whole_model_by_type.csv").read_text().splitlines()[1:])
    whole = {name.casefold(): float(value) for name, value in curve} | {"f16": 0.0}
    table = read_table(shared_data / "shapes" / "qwen36_27b_tensors.csv")
    return Published(table, {name: float(value) for name, value in row.items()}, whole)


@pytest.fixture(scope="module")
def ladder(published: Published) -> tuple[RecipeStep, ...]:
    return carry_out(read_recipe("ra4"), published.table)


@pytest.mark.parametrize("names", [RECIPE_TYPES, MORE_TYPES], ids=["types of the recipe", "more types"])
def test_every_rung_against_the_optimum_of_its_bytes(
    published: Published, ladder: tuple[RecipeStep, ...], names: tuple[str, ...]
) -> None:
    losses = published.losses(names)
    header(f"Qwen3.6-27B, rungs against optima; types {', '.join(names)}")
    print(
        "| rung | bytes | bpw | loss by hand | optimum | less by "
        "| gap proven by the solver | by the certificate alone | same loss in | saved |"
    )
    for step in ladder:
        by_hand = account(Allocation({t.name: q.name for t, q in step.types.items()}), losses, step.size)
        problem = Problem(losses, step.size)
        outcome = solve(problem)
        certified = _certified(problem, outcome)
        best = outcome.unwrap()[1]
        assert best.loss <= by_hand.loss
        smallest = smallest_size(problem, by_hand.loss)
        assert smallest.ledger is not None
        print(
            f"| {step.name} | {step.size:,} | {float(step.bits_per_weight):.4f} | {by_hand.loss:.6f} "
            f"| {best.loss:.6f} | {100 * (1 - best.loss / by_hand.loss):.1f} % | {outcome.gap:.1e} "
            f"| {certified:.1e} | {smallest.ledger.size:,} "
            f"({float(bits_per_weight(smallest.ledger.size, published.table.weights)):.4f}) "
            f"| {(step.size - smallest.ledger.size) / 2**20:,.0f} MiB |"
        )


def test_what_each_step_buys(published: Published, ladder: tuple[RecipeStep, ...]) -> None:
    losses = published.losses(RECIPE_TYPES)
    header("Qwen3.6-27B, what each step buys, and how much the optimum falls between the same sizes")
    print("| step | bytes | loss by hand, change | nats per GB | at best, change | nats per GB |")
    for before, after in pairwise(ladder):
        ledgers = [
            account(Allocation({t.name: q.name for t, q in step.types.items()}), losses, step.size)
            for step in (before, after)
        ]
        spent = after.size - before.size
        change = ledgers[1].loss - ledgers[0].loss
        best = (
            solve(Problem(losses, after.size)).unwrap()[1].loss - solve(Problem(losses, before.size)).unwrap()[1].loss
        )
        print(
            f"| {before.name} → {after.name} | {spent:+,} | {change:+.6f} | {change / spent * 1e9:+.5f} "
            f"| {best:+.6f} | {best / spent * 1e9:+.5f} |"
        )


def test_where_hand_and_optimum_differ(published: Published, ladder: tuple[RecipeStep, ...]) -> None:
    losses = published.losses(RECIPE_TYPES)
    step = ladder[3]
    base = Allocation({t.name: q.name for t, q in step.types.items()})
    outcome = solve(Problem(losses, step.size))
    moves = exchange(base, outcome.unwrap()[0], losses, step.size)
    header(f"Qwen3.6-27B, from {step.name} to the optimum of its bytes")
    print("| role | tensors | from → to | bytes | loss |")
    groups: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for line in moves.lines:
        groups.setdefault((role_of(line.tensor), line.before, line.after), []).append((line.size, line.loss))
    for (role, before, after), found in sorted(groups.items(), key=lambda item: sum(loss for _, loss in item[1])):
        size, loss = sum(size for size, _ in found), sum(loss for _, loss in found)
        print(f"| {role} | {len(found)} | {before} → {after} | {size:+,} | {loss:+.6f} |")
    assert moves.freed - moves.spent == moves.sink


def _certified(problem: Problem, outcome: Outcome) -> float:
    """The gap that the multiplier alone proves, recomputed without the solver."""
    checked = verify(problem, outcome)
    assert checked.faults == ()
    assert checked.certified_gap is not None
    return checked.certified_gap
