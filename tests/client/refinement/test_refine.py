"""The closed loop on a made-up model whose true losses are known."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.evaluation.in_memory import Trial, TrialResult
from raq_client.evaluation.scores import TokenScores
from raq_client.refinement.refine import refine, tensor_groups
from raq_client.refinement.tried import Candidate, Tried
from raq_solver.knapsack import Limits
from raq_solver.loss_models import measured, prior, relative
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.solve import solve
from raq_solver.tensors import Tensor

TYPES = tuple(CATALOGUE[name] for name in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"))
ROLES = ("attn_q", "attn_v", "ffn_down", "ffn_up")


def _profile(seed: int) -> Profile:
    random = np.random.default_rng(seed)
    names = ["token_embd.weight", *(f"blk.{b}.{role}.weight" for b in range(6) for role in ROLES), "output.weight"]
    tensors = tuple(Tensor(name, (256, 64 * int(random.integers(1, 8))), CATALOGUE["F16"]) for name in names)
    steps = np.array([4e-5, 4e-4, 1.5e-3, 5e-3, 2e-2, 8e-2])
    errors = steps * random.uniform(0.8, 1.2, (len(names), len(TYPES)))
    unknown = np.full(len(names), np.nan)
    return Profile(tensors, TYPES, errors, np.ones(len(names)), unknown, unknown.copy())


class _KnownModel:
    """Its divergence is the sum of the losses of groups, each times a factor that no loss model knows of."""

    def __init__(self, profile: Profile, seed: int, interaction: float = 0.0) -> None:
        random = np.random.default_rng(seed)
        self._factors = {name: f for g in tensor_groups(profile) for f in [random.lognormal(0, 0.7)] for name in g}
        self._profile, self._interaction = profile, interaction
        self._windows = np.ones(3)
        self.runs = 0

    def run(self, types: Mapping[str, QuantType], *, compensated: bool = True) -> TrialResult:
        assert compensated
        self.runs += 1
        rows = {tensor.name: row for row, tensor in enumerate(self._profile.tensors)}
        columns = {quant_type: column for column, quant_type in enumerate(self._profile.quant_types)}
        kl = sum(
            self._factors[name] * self._profile.relative_errors[rows[name], columns[quant_type]]
            for name, quant_type in types.items()
        )
        kl += self._interaction * kl**2
        windows = kl * self._windows[:, None]
        nothing = np.zeros_like(windows)
        scores = TokenScores(nothing, nothing.copy(), windows, nothing.copy(), nothing.astype(bool))
        return TrialResult(scores, MappingProxyType({}))


@given(st.integers(0, 1000), st.floats(0, 5))
def test_it_never_ends_worse_and_costs_a_run_a_round(seed: int, interaction: float) -> None:
    profile = _profile(seed)
    model = _KnownModel(profile, seed, interaction)
    start = Problem(prior(profile), int(profile.weights.sum() * 4.2 / 8))
    found = refine(start, profile, solve, cast("Trial", model), rounds=6, limits=Limits())
    kls = [each.kl for each in found.rounds]
    assert model.runs == len(kls) <= 9
    assert [each.accepted for each in found.rounds] == [kl < min(kls[:i], default=np.inf) for i, kl in enumerate(kls)]
    allocation = solve(found.problem, Limits()).unwrap()[0]
    columns = {quant_type.name: quant_type for quant_type in TYPES}
    final = model.run({name: columns[chosen] for name, chosen in allocation.types.items()}).scores.kl.mean()
    assert final == pytest.approx(min(kls), rel=1e-12)


def test_a_dozen_rounds_halve_the_distance_to_what_is_possible() -> None:
    left = []
    for seed in range(10):
        profile = _profile(seed)
        model = _KnownModel(profile, seed)
        true = np.array([model.run({t.name: TYPES[-1]}).scores.kl[0, 0] for t in profile.tensors])
        known = Profile(
            profile.tensors, TYPES, profile.relative_errors, profile.energies, true / profile.relative_errors[:, -1],
            np.zeros(len(true)),
        )  # fmt: skip
        capacity = int(profile.weights.sum() * 4.2 / 8)
        best = solve(Problem(measured(known), capacity), Limits()).unwrap()[1].loss
        found = refine(
            Problem(relative(profile), capacity), profile, solve, cast("Trial", model), rounds=12, limits=Limits()
        )
        start = min(each.kl for each in found.rounds[:3])
        left.append((min(each.kl for each in found.rounds) - best) / (start - best))
    assert np.mean(left) < 0.5


def test_what_is_better_by_less_than_noise_is_not_taken() -> None:
    def tried(*per_window: float) -> Tried:
        return Tried(cast("Candidate", None), np.array(per_window), 0.0)

    before = tried(1.0, 2.0, 3.0)
    assert tried(0.9, 1.9, 2.9).beats(before)
    assert not tried(0.5, 2.2, 2.9).beats(before)
    assert not before.beats(before)
    assert tried(0.9).beats(tried(1.0))


def test_equal_questions_get_equal_answers() -> None:
    profile = _profile(1)
    problem = Problem(prior(profile), int(profile.weights.sum() * 4.2 / 8))
    first, second = (
        refine(problem, profile, solve, cast("Trial", _KnownModel(profile, 1)), rounds=5, limits=Limits()).rounds
        for _ in range(2)
    )
    assert first == second
