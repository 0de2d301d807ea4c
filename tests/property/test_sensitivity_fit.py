"""The regression on made-up models whose sensitivities are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.sensitivity.choices import Choices
from raq_client.sensitivity.design import balanced_design, most_telling, role_design, single_design
from raq_client.sensitivity.fit import Evaluation, Fit, fit_sensitivities

ROLES = ("attn_q", "attn_v", "ffn_down", "ffn_up")
NAMES = ("token_embd.weight", *(f"blk.{b}.{role}.weight" for b in range(6) for role in ROLES), "output.weight")
ERROR = 0.005


def _truth(seed: int, spread: float = 0.3) -> np.ndarray:
    random = np.random.default_rng(seed)
    effects = {role: random.normal(0, 1) for role in (*ROLES, "token_embd", "output")}
    logs = [effects[name.removesuffix(".weight").split(".")[-1]] + random.normal(0, spread) for name in NAMES]
    sensitivities: np.ndarray = np.exp(np.array(logs) - 3)
    return sensitivities


def _evaluate(truth: np.ndarray, groups: list[tuple[str, ...]], noise: float, seed: int) -> list[Evaluation]:
    random = np.random.default_rng(seed)
    column = {name: index for index, name in enumerate(NAMES)}
    found = []
    for group in groups:
        kl = ERROR * sum(truth[column[name]] for name in group)
        found.append(Evaluation(group, (ERROR,) * len(group), kl * (1 + noise * random.normal()), noise * kl))
    return found


@given(st.integers(0, 1000))
def test_one_evaluation_each_is_hardly_shrunk(seed: int) -> None:
    truth = _truth(seed)
    fit = fit_sensitivities(NAMES, _evaluate(truth, single_design(NAMES), 0.0, seed))
    np.testing.assert_allclose(fit.values, truth, rtol=0.04)
    assert fit.information.min() > 0.95
    np.testing.assert_allclose(fit.errors / truth, 0.02, atol=0.01)


@given(st.integers(0, 1000))
def test_errors_are_honest_where_groups_and_singles_are_mixed(seed: int) -> None:
    truth = _truth(seed)
    groups = role_design(NAMES) + single_design(NAMES)[::3]
    fit = fit_sensitivities(NAMES, _evaluate(truth, groups, 0.02, seed))
    surprise = (fit.values - truth) / fit.errors
    assert np.sqrt(np.square(surprise).mean()) < 2
    measured = [index for index, name in enumerate(NAMES) if (name,) in groups]
    others = [index for index in range(len(NAMES)) if index not in measured]
    assert fit.information[measured].min() > fit.information[others].max()
    assert (fit.errors[others] / fit.values[others]).min() > 0.05
    # what groups say in sum is kept
    for group in role_design(NAMES):
        rows = [NAMES.index(name) for name in group]
        assert math.isclose(fit.values[rows].sum(), truth[rows].sum(), rel_tol=0.2)


@given(st.integers(0, 1000))
def test_what_was_expected_fills_in_where_nothing_was_measured(seed: int) -> None:
    truth = _truth(seed, spread=1.0)
    groups = balanced_design(NAMES, 5, rounds=1, seed=seed)
    found = _evaluate(truth, groups, 0.02, seed)
    right = dict(zip(NAMES, 1000 * truth, strict=True))
    filled = fit_sensitivities(NAMES, found, expected=right).values
    np.testing.assert_allclose(filled, truth, rtol=0.3, atol=0.1 * truth.mean())
    partly = {name: value for name, value in right.items() if "ffn" in name} | {"output.weight": 0.0}
    assert np.isfinite(fit_sensitivities(NAMES, found, expected=partly).values).all()
    # and where all was measured, a wrong expectation does no harm
    wrong = dict(zip(NAMES, truth[::-1], strict=True))
    each = _evaluate(truth, single_design(NAMES), 0.0, seed)
    np.testing.assert_allclose(fit_sensitivities(NAMES, each, expected=wrong).values, truth, rtol=0.05)


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_units_are_those_of_the_losses(seed: int, random: object) -> None:
    truth = _truth(seed)
    found = _evaluate(truth, role_design(NAMES) + single_design(NAMES)[:5], 0.05, seed)
    fit = fit_sensitivities(NAMES, found)
    shuffle = np.random.default_rng(seed).permutation(len(NAMES))
    shuffled = fit_sensitivities([NAMES[index] for index in shuffle], found[::-1])
    np.testing.assert_allclose(shuffled.values, fit.values[shuffle], rtol=1e-6)
    tenfold = [Evaluation(e.tensors, e.errors, 10 * e.kl, 10 * e.kl_error) for e in found]
    np.testing.assert_allclose(fit_sensitivities(NAMES, tenfold).values, 10 * fit.values, rtol=1e-6)


@given(st.integers(0, 1000), st.floats(0.001, 0.1))
def test_the_noise_floor_is_taken_off(seed: int, floor: float) -> None:
    truth = _truth(seed)
    found = _evaluate(truth, single_design(NAMES), 0.0, seed)
    raised = [Evaluation(e.tensors, e.errors, e.kl + floor, e.kl_error) for e in found]
    expected = fit_sensitivities(NAMES, found)
    np.testing.assert_allclose(fit_sensitivities(NAMES, raised, floor).values, expected.values, rtol=1e-6)


def test_a_model_that_nothing_hurts_has_no_sensitivities() -> None:
    fit = fit_sensitivities(NAMES, [Evaluation((name,), (ERROR,), 0.0, 0.0) for name in NAMES])
    assert not fit.values.any()
    assert not fit.information.any()


@given(st.integers(1, 40), st.integers(1, 4))
def test_balanced_designs_use_every_tensor_equally_often(evaluations: int, rounds: int) -> None:
    groups = balanced_design(NAMES, evaluations, rounds)
    assert len(groups) <= max(evaluations, rounds)
    for name in NAMES:
        assert sum(name in group for group in groups) == rounds
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_role_designs_hold_each_tensor_once() -> None:
    groups = role_design(NAMES)
    assert len(groups) == len(ROLES) + 2
    assert sorted(name for group in groups for name in group) == sorted(NAMES)


def test_without_choices_the_largest_doubt_is_most_telling() -> None:
    fit = Fit(np.ones(len(NAMES)), np.linspace(1, 2, len(NAMES)), np.zeros(len(NAMES)))
    assert most_telling(NAMES, fit, None, frozenset()) == NAMES[-1]
    assert most_telling(NAMES, fit, None, frozenset({(NAMES[-1],)})) == NAMES[-2]
    assert most_telling(NAMES, fit, None, frozenset(single_design(NAMES))) is None


def test_what_changes_no_choice_is_worth_nothing() -> None:
    """Three tensors, two types, room for one larger type: the second and third dispute it, the first surely has not."""
    names = ("sure", "near", "nearer")
    errors, sizes = np.array([[0.1, 0.0]] * 3), np.array([[10, 20]] * 3)
    choices = Choices(names, errors, sizes, (40,))
    fit = Fit(np.array([0.1, 1.0, 1.1]), np.array([0.05, 0.3, 0.05]), np.zeros(3))
    worth = choices.worth_of_knowing(names, fit)
    assert worth[0] < 1e-12 < worth[2] < worth[1]
    assert most_telling(names, fit, choices, frozenset()) == "near"
    certain = choices.worth_of_knowing(names, Fit(fit.values, np.zeros(3), np.ones(3)))
    np.testing.assert_allclose(certain, 0, atol=1e-15)
    stranger = choices.worth_of_knowing(("near", "unknown"), Fit(fit.values[1:], fit.errors[1:], np.zeros(2)))
    assert stranger[1] == 0


@given(st.integers(0, 1000))
def test_the_worth_of_knowing_is_what_the_best_of_each_case_saves(seed: int) -> None:
    """One tensor at a known price: the mean over drawn sensitivities of (choice by the estimate - best choice)."""
    random = np.random.default_rng(seed)
    errors, sizes = np.sort(random.uniform(0, 0.1, (1, 4)))[:, ::-1].copy(), np.array([[10, 20, 30, 40]])
    value, doubt = 1.0, float(random.uniform(0.05, 0.5))
    choices = Choices(("a",), errors, sizes, (25,))
    worth = choices.worth_of_knowing(("a",), Fit(np.array([value]), np.array([doubt]), np.zeros(1)))[0]
    price = choices.price(np.array([value]), 25)
    spread = math.sqrt(math.log1p((doubt / value) ** 2))
    drawn = np.exp(random.normal(-(spread**2) / 2, spread, 20_000))
    costs = drawn[:, None] * errors + price * sizes
    chosen = (errors + price * sizes)[0].argmin()
    expected = (costs[:, chosen] - costs.min(axis=1)).mean() / errors[0, chosen]
    assert worth == pytest.approx(expected, rel=0.3, abs=0.01)


@pytest.mark.parametrize("count", [6, 12, 20])
def test_more_evaluations_come_nearer(count: int) -> None:
    truth = _truth(3, spread=0.6)
    found = _evaluate(truth, role_design(NAMES), 0.02, 0)
    while len(found) < count:
        fit = fit_sensitivities(NAMES, found)
        name = most_telling(NAMES, fit, None, frozenset(e.tensors for e in found))
        assert name is not None
        found += _evaluate(truth, [(name,)], 0.02, len(found))
    miss = np.abs(fit_sensitivities(NAMES, found).values - truth).sum() / truth.sum()
    assert miss < {6: 0.5, 12: 0.3, 20: 0.15}[count]
