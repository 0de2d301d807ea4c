"""How few evaluations an allocation needs, on recorded evaluations of the project's two models.

Recorded are the evaluations of every tensor alone, of every role and of all tensors at once (tests/data/SOURCES.md).
The truth is what all single evaluations say together; regret is how much more the allocation loses that was made from
a few of them than the best one does, at seven sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from raq_client.files.profile_file import load_profile
from raq_client.sensitivity.choices import choices_of
from raq_client.sensitivity.design import Design, expected_of, most_telling, planned_groups
from raq_client.sensitivity.fit import Evaluation, Fit, fit_sensitivities
from raq_client.sensitivity.journal import Journal
from raq_solver.loss_models import measured
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.solve import solve
from support.paths import DATA

BITS = (3.2, 3.6, 4.0, 4.5, 5.0, 5.5, 6.0)


@dataclass(frozen=True, eq=False)
class Recorded:
    """A model's profile and every evaluation that a design may ask for."""

    profile: Profile
    journal: Journal
    names: tuple[str, ...]

    def evaluation(self, group: tuple[str, ...]) -> Evaluation:
        found = self.journal.get(group)
        assert found is not None, f"not recorded: {group}"
        return found

    def table(self, fit: Fit) -> LossTable:
        known = dict(zip(self.names, np.maximum(fit.values, 1e-9).tolist(), strict=True))
        values = np.array([known.get(tensor.name, np.nan) for tensor in self.profile.tensors])
        return measured(replace(self.profile, sensitivities=values, sensitivity_errors=np.zeros(len(values))))

    def regret(self, fit: Fit) -> float:
        """Mean share of loss above the least possible."""
        truth = self.table(fit_sensitivities(self.names, [self.evaluation((name,)) for name in self.names]))
        rows = {name: row for row, name in enumerate(truth.tensors)}
        columns = {name: column for column, name in enumerate(truth.quant_types)}
        found = []
        for bits in BITS:
            capacity = int(bits * self.profile.weights.sum() / 8)
            types = solve(Problem(self.table(fit), capacity)).unwrap()[0].types
            lost = sum(truth.losses[rows[name], columns[types[name]]] for name in rows)
            found.append(lost / solve(Problem(truth, capacity)).unwrap()[1].loss - 1)
        return float(np.mean(found))


@pytest.fixture(scope="module", params=["4M", "18M"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    profile = load_profile(Path(DATA / f"wiki-math-{request.param}.sensitivities.json"))
    journal = Journal(DATA / f"wiki-math-{request.param}.evaluations.jsonl")
    assert journal.tensors is not None
    return Recorded(profile, journal, journal.tensors)


def evaluated(recorded: Recorded, design: Design, count: int, expected: Mapping[str, float]) -> list[Evaluation]:
    """What `measure_sensitivities` would evaluate, in order."""
    names, choices = recorded.names, choices_of(recorded.profile)
    together = recorded.evaluation(names)
    found = [recorded.evaluation(group) for group in planned_groups(design, names, count, foreseen=bool(expected))]
    while len(found) < count:
        fit = fit_sensitivities(names, [*found, together], 0.0, expected)
        name = most_telling(names, fit, choices, frozenset(evaluation.tensors for evaluation in found))
        assert name is not None
        found.append(recorded.evaluation((name,)))
    return found


def needed(recorded: Recorded, evaluations: Sequence[Evaluation], expected: Mapping[str, float], goal: float) -> int:
    """Evaluations after which the regret is at most `goal` for the first time."""
    together = recorded.evaluation(recorded.names)
    for count in range(1, len(evaluations) + 1):
        fit = fit_sensitivities(recorded.names, [*evaluations[:count], together], 0.0, expected)
        if recorded.regret(fit) <= goal:
            return count
    return len(evaluations) + 1


@pytest.mark.parametrize("foreseen", ["nothing", "residual"])
def test_a_dozen_adaptive_evaluations_do_what_takes_more_one_after_the_other(recorded: Recorded, foreseen: str) -> None:
    expected = expected_of(recorded.profile) if foreseen == "residual" else {}
    together = recorded.evaluation(recorded.names)
    dozen = [*evaluated(recorded, "adaptive", 12, expected), together]
    goal = recorded.regret(fit_sensitivities(recorded.names, dozen, 0.0, expected))
    in_order = evaluated(recorded, "single", len(recorded.names) - 1, expected)
    count = needed(recorded, in_order, expected, goal)
    print(f"\nregret of {goal:.1%} after 12 evaluations, one after the other {count}")
    assert goal < 0.1
    assert count >= 15


def test_estimates_far_below_their_doubt_have_a_finite_worth() -> None:
    """Of recurrent tensors, with few evaluations, estimates may be 0 or next to it; no warning comes of that."""
    profile = load_profile(DATA / "wiki-math-4M.sensitivities.json")
    choices, count = choices_of(profile), len(profile.tensors)
    values = np.resize([0.0, 1e-300, 1e-200, 1e-9, 0.1], count)
    fit = Fit(values, np.resize([0.0, 1e-3, 10.0], count), np.zeros(count))
    worth = choices.worth_of_knowing([tensor.name for tensor in profile.tensors], fit)
    assert np.isfinite(worth).all()
    assert (worth >= 0).all()
    assert worth.max() > 0
