"""The smallest plan within a measured KL divergence: searched by trials that a function stands in for."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.evaluation.in_memory import Trial
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.table import table_of
from raq_client.models.type_choice import chosen_types
from raq_client.planning.build_problem import ProblemSpec, build_problem
from raq_client.planning.plan import Plan, solve_plan
from raq_client.planning.request import Request
from raq_client.quantizing.measure import measure_profile
from raq_client.refinement.measured_limit import CLOSE, MOST_TRIALS, MeasuredTooLarge, smallest_within
from raq_client.solver_client.local import LocalSolver
from raq_solver.knapsack import Termination
from raq_solver.quant_types import QuantType
from raq_solver.solve import NO_LIMITS
from support.examples import examples


class Formula:
    """A trial whose KL divergence is a function of the predicted loss, in four windows."""

    def __init__(self, spec: ProblemSpec, kl: Callable[[float], float]) -> None:
        self._spec, self._kl, self.runs = spec, kl, 0

    def run(self, types: Mapping[str, QuantType], *, compensated: bool = True) -> SimpleNamespace:
        self.runs += 1
        table, profile = self._spec.problem.table, self._spec.profile
        assert profile is not None
        assert compensated
        chosen = {t.name: types[t.name].name if t.name in types else t.source_type.name for t in profile.tensors}
        loss = sum(table.losses[table.row_of[name], table.column_of[q]] for name, q in chosen.items())
        return SimpleNamespace(scores=SimpleNamespace(kl=np.full((4, 3), self._kl(float(loss)))))


@pytest.fixture(scope="module")
def spec(model_path: Path, imatrix_path: Path) -> ProblemSpec:
    model = open_model(model_path)
    profile = measure_profile(model, read_importance(imatrix_path), chosen_types(()))
    return build_problem(Request(max_loss=0.01), profile, table_of(model))


def plan_for(spec: ProblemSpec, most: float) -> Plan:
    request = Request(max_loss=most)
    assert spec.profile is not None
    return solve_plan(ProblemSpec(request, spec.profile, spec.problem, None), LocalSolver(), NO_LIMITS)


def test_the_limit_is_met_closely_whatever_the_scale(spec: ProblemSpec) -> None:
    @examples(40)
    @given(st.floats(0.2, 20), st.floats(0.7, 1.4), st.floats(0.001, 0.05))
    def law(factor: float, power: float, most: float) -> None:  # without `spec`, which is too long to report
        check_limit(spec, factor, power, most)

    law()


def check_limit(spec: ProblemSpec, factor: float, power: float, most: float) -> None:
    trial = Formula(spec, lambda loss: factor * 0.01 * (loss / 0.01) ** power)
    found = smallest_within(plan_for(spec, most), LocalSolver(), cast(Trial, trial), limits=NO_LIMITS)
    assert trial.runs == len(found.attempts) <= MOST_TRIALS
    assert found.best.kl <= most
    assert found.best.kl >= CLOSE * most or found.reason is not None
    smaller = [each for each in found.attempts if each.tried.candidate.size < found.best.tried.candidate.size]
    assert all(each.kl > most for each in smaller)


def test_a_step_that_is_too_small_for_another_plan_is_not_the_end(spec: ProblemSpec) -> None:
    """The third plan is 0.3 % above the limit, and the next smaller limit gives it again."""
    trial = Formula(spec, lambda loss: 0.2 * (loss / 0.01) ** 0.75)
    found = smallest_within(plan_for(spec, 0.0011), LocalSolver(), cast(Trial, trial), limits=NO_LIMITS)
    assert found.best.kl <= 0.0011


def test_a_scale_that_is_right_takes_one_trial(spec: ProblemSpec) -> None:
    trial = Formula(spec, lambda loss: 0.97 * loss)
    found = smallest_within(plan_for(spec, 0.02), LocalSolver(), cast(Trial, trial), limits=NO_LIMITS)
    assert (len(found.attempts), found.reason) == (1, None)


def test_what_no_plan_keeps_is_said(spec: ProblemSpec) -> None:
    trial = Formula(spec, lambda loss: 0.5 + loss)
    with pytest.raises(MeasuredTooLarge, match=r"at most 0\.02: the least was 0\.5") as raised:
        smallest_within(plan_for(spec, 0.02), LocalSolver(), cast(Trial, trial), limits=NO_LIMITS)
    assert raised.value.termination in {Termination.INFEASIBLE, Termination.NO_SOLUTION_FOUND}


def test_time_ends_the_search(spec: ProblemSpec) -> None:
    trial = Formula(spec, lambda loss: 0.1 * loss)
    found = smallest_within(plan_for(spec, 0.02), LocalSolver(), cast(Trial, trial), limits=NO_LIMITS, seconds=-1)
    assert len(found.attempts) == 1
    assert found.reason is not None
    assert "--trial-minutes" in found.reason
    slow = Formula(spec, lambda loss: 10 * loss)
    with pytest.raises(MeasuredTooLarge, match="a longer --trial-minutes may find one") as raised:
        smallest_within(plan_for(spec, 0.02), LocalSolver(), cast(Trial, slow), limits=NO_LIMITS, seconds=-1)
    assert raised.value.termination is Termination.NO_SOLUTION_FOUND


def test_the_largest_plan_may_have_no_loss(spec: ProblemSpec) -> None:
    trial = Formula(spec, math.sqrt)
    found = smallest_within(plan_for(spec, 1e-6), LocalSolver(), cast(Trial, trial), limits=NO_LIMITS)
    assert found.best.kl <= 1e-6
