"""The guard: what is tried beside a plan, and what is taken."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from raq_client.evaluation.in_memory import BrokenByTrialError, Trial
from raq_client.importance.imatrix_file import read_importance
from raq_client.models.model_file import open_model
from raq_client.models.table import ModelTable, table_of
from raq_client.models.type_choice import chosen_types
from raq_client.quantizing.measure import measure_profile
from raq_client.refinement.candidates import candidates, compare_candidates
from raq_client.refinement.tried import Candidate
from raq_solver import Limits, Pin, Problem, solve
from raq_solver.errors import Fault
from raq_solver.loss_models import LOSS_MODELS, prior
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType


@dataclass
class _Scores:
    kl: np.ndarray


@dataclass
class _Result:
    scores: _Scores


class _Scripted:
    """Gives the KL divergences of a script, one after the other, in four windows."""

    def __init__(self, levels: list[float], noise: float = 0.0) -> None:
        self._levels, self._noise = iter(levels), noise
        self.runs: list[Mapping[str, QuantType]] = []

    def run(self, types: Mapping[str, QuantType], *, compensated: bool = True) -> _Result:
        assert compensated
        self.runs.append(types)
        if math.isinf(level := next(self._levels)):
            raise BrokenByTrialError(Fault("model.gguf", "its predictions are not finite"))
        spread = self._noise * np.array([[1.0], [-1.0], [1.0], [-1.0]]) * (-1) ** len(self.runs)
        return _Result(_Scores(level + spread + np.zeros((4, 3))))


@pytest.fixture(scope="module")
def measured(model_path: Path, imatrix_path: Path) -> tuple[Profile, ModelTable]:
    model = open_model(model_path)
    return measure_profile(model, read_importance(imatrix_path), chosen_types(())), table_of(model)


def made(measured: tuple[Profile, ModelTable], capacity: int, *constraints: Pin) -> list[Candidate]:
    profile, table = measured
    problem = Problem(prior(profile), capacity, constraints)
    limits = Limits(5)
    return candidates(problem, solve(problem, limits), profile, table, solve, limits)


def test_own_plan_mixture_and_other_losses_are_tried_each_once_within_the_capacity(
    measured: tuple[Profile, ModelTable],
) -> None:
    found = made(measured, 2_870_784)  # the size of Q4_K_M
    names = [each.name for each in found]
    assert names[:2] == ["the plan", "mixture Q4_K_M"]
    assert {name.removeprefix("losses ") for name in names[2:]} <= set(LOSS_MODELS)
    assert all(each.size <= 2_870_784 for each in found)
    assert len({tuple(sorted(each.allocation.types.items())) for each in found}) == len(found)


def test_what_the_user_pins_holds_in_every_candidate(measured: tuple[Profile, ModelTable]) -> None:
    pin = Pin(("output.weight",), "Q8_0", reason="--pin")
    found = made(measured, 3_100_000, pin)
    assert all(each.allocation.types["output.weight"] == "Q8_0" for each in found)
    mixture = next(each for each in found if each.name.startswith("mixture")).allocation.types
    assert mixture["token_embd.weight"] in {"Q4_K", "Q5_K"}  # all else is the mixture's


def test_the_lowest_beyond_noise_is_taken(measured: tuple[Profile, ModelTable]) -> None:
    found = made(measured, 2_870_784)[:3]
    scripted = _Scripted([0.3, 0.2, 0.1])
    comparison = compare_candidates(found, measured[0], cast("Trial", scripted))
    assert comparison.best.candidate is found[2]
    assert [one.kl for one in comparison.tried] == pytest.approx([0.3, 0.2, 0.1])
    assert len(scripted.runs) == 3


def test_what_may_be_noise_leaves_the_plan_as_it_is(measured: tuple[Profile, ModelTable]) -> None:
    found = made(measured, 2_870_784)[:2]
    comparison = compare_candidates(found, measured[0], cast("Trial", _Scripted([0.3, 0.29], noise=0.05)))
    assert comparison.best is comparison.tried[0]


def test_when_time_is_up_the_rest_is_named(measured: tuple[Profile, ModelTable]) -> None:
    found = made(measured, 2_870_784)
    comparison = compare_candidates(found, measured[0], cast("Trial", _Scripted([0.3] * len(found))), seconds=0.0)
    assert len(comparison.tried) == 2  # the plan and one rival at least
    assert comparison.left_out == tuple(each.name for each in found[2:])


def test_a_candidate_that_is_not_finite_is_never_taken(measured: tuple[Profile, ModelTable]) -> None:
    found = made(measured, 2_870_784)[:3]
    comparison = compare_candidates(found, measured[0], cast("Trial", _Scripted([0.3, math.nan, 0.2])))
    assert comparison.best.candidate is found[2]
    assert not comparison.tried[1].beats(comparison.tried[0])
    comparison = compare_candidates(found, measured[0], cast("Trial", _Scripted([0.3, math.inf, 0.2])))
    assert comparison.best.candidate is found[2]
    assert comparison.broken == (found[1].name,)
    with pytest.raises(BrokenByTrialError):
        compare_candidates(found, measured[0], cast("Trial", _Scripted([math.inf, 0.3, 0.2])))
