"""Intervals of predictions: laws, and how often they hold on windows whose mean is known."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float64

from raq_client.evaluation.statistics import Estimate
from raq_client.planning.build_problem import build_problem
from raq_client.planning.predicted_kl import CONFIDENCE, MODEL_ERROR, Place, PredictedKl, from_windows, predicted_kl
from raq_client.planning.request import Request
from raq_client.reports.predicted import beside_measured_dict, beside_measured_text, predicted_dict, predicted_rows
from raq_solver.profile import FisherLevels, FisherLosses, Profile
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor
from support.examples import examples

TEXTS = ("math", "code", "math", "code", "prose", "math", "code")
numbers = st.floats(1e-6, 1e6)


def levels_of(texts: Sequence[str], weights: Sequence[float] | None = None, tensors: int = 3) -> FisherLevels:
    """Random levels of some tensors in windows of these texts."""
    random = np.random.default_rng(len(texts))
    counted = np.ones(len(texts)) if weights is None else np.array(weights)
    return FisherLevels(random.lognormal(size=(tensors, len(texts))), tuple(texts), counted)


def profile_of(levels: FisherLevels | None) -> Profile:
    """Three tensors at two types with losses by Fisher information."""
    tensors = tuple(Tensor(f"blk.{block}.attn_q.weight", (256, 4), CATALOGUE["F16"]) for block in range(3))
    types, unknown = (CATALOGUE["Q8_0"], CATALOGUE["Q4_K"]), np.full(3, np.nan)
    fisher = FisherLosses(np.array([[1e-4, 2e-2], [2e-4, 5e-2], [1e-5, 3e-3]]), np.array([1.0, 2.0, 0.1]))
    return Profile(tensors, types, np.full((3, 2), 0.01), np.ones(3), unknown, unknown, fisher=fisher, levels=levels)


def predicted(profile: Profile, loss: str | None = None) -> PredictedKl | None:
    """The prediction for one tensor at 8 and two at 4 bits."""
    spec = build_problem(Request(budget="8", loss=loss), profile)
    names = [tensor.name for tensor in profile.tensors]
    return predicted_kl(spec, dict(zip(names, ("Q8_0", "Q4_K", "Q4_K"), strict=True)))


@examples(40)
@given(st.lists(numbers, min_size=len(TEXTS), max_size=len(TEXTS)), st.lists(numbers, min_size=7, max_size=7), numbers)
def test_laws_of_the_interval(windows: list[float], weights: list[float], scale: float) -> None:
    levels, kl = levels_of(TEXTS, weights), np.array(windows)
    found = from_windows(kl, levels)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(float(np.average(kl, weights=weights)))
    shares = {text: sum(w for w, t in zip(weights, TEXTS, strict=True) if t == text) for text in found.texts}
    whole = sum(share * found.texts[text] for text, share in shares.items()) / sum(weights)
    assert whole == pytest.approx(found.value), "the texts' weighted mean is the whole"
    scaled = from_windows(scale * kl, levels)
    for name in ("low", "value", "high"):
        assert getattr(scaled, name) == pytest.approx(scale * getattr(found, name), rel=1e-9)
    swapped = [6, 5, 4, 3, 2, 1, 0]
    other = FisherLevels(levels.levels[:, swapped], tuple(TEXTS[i] for i in swapped), np.array(weights)[swapped])
    assert from_windows(kl[swapped], other).high == pytest.approx(found.high, rel=1e-9)


def test_windows_that_agree_have_the_width_of_the_losses_alone() -> None:
    of_text = {"math": 0.01, "code": 0.3, "prose": 0.02}
    windows = np.array([of_text[text] for text in TEXTS])
    exact = from_windows(windows, levels_of(TEXTS), model_error=0)
    assert (exact.low, exact.high) == pytest.approx((exact.value, exact.value))
    assert exact.texts == pytest.approx(of_text)
    found = from_windows(windows, levels_of(TEXTS))
    assert found.high / found.value == pytest.approx(math.exp(1.6448536 * MODEL_ERROR))


def test_a_single_window_says_nothing_of_the_spread() -> None:
    assert from_windows(np.array([0.1]), levels_of(("math",))) == PredictedKl(0.1, 0.0, math.inf, {"math": 0.1})
    # One window of each text: their spread holds that between texts too, so that it is rather too wide.
    found = from_windows(np.array([0.1, 0.2]), levels_of(("math", "code")))
    assert 0 < found.low < 0.1
    assert 0.2 < found.high < math.inf
    assert from_windows(np.zeros(2), levels_of(("math", "code"))).high == 0


def test_a_text_that_does_not_count_is_left_out() -> None:
    windows = np.array([0.1, 5.0, 0.2, 9.0])
    found = from_windows(windows, levels_of(("math", "code", "math", "code"), (2, 0, 2, 0)))
    assert found == from_windows(windows[::2], levels_of(("math", "math")))


def test_a_plans_windows_are_its_losses_by_the_levels_of_its_tensors() -> None:
    levels = levels_of(TEXTS, (1, 2, 1, 2, 3, 1, 2))
    profile = profile_of(levels)
    found = predicted(profile)
    assert found is not None
    problem = build_problem(Request(budget="8"), profile).problem
    losses = np.array(
        [problem.table.losses[row, problem.table.column_of[name]] for row, name in enumerate(("Q8_0", "Q4_K", "Q4_K"))]
    )
    windows = losses @ levels.levels
    assert found.value == pytest.approx(sum(losses), rel=1e-12)
    assert found == from_windows(windows, levels)
    assert predicted(profile, "fisher") == found


def test_with_experts_there_is_no_interval() -> None:
    dense = profile_of(levels_of(TEXTS))
    first = Tensor("blk.0.ffn_up_exps.weight", (256, 2, 2), CATALOGUE["F16"])
    routed = replace(dense, tensors=(first, *dense.tensors[1:]))
    one, other = predicted(dense), predicted(routed)
    assert one is not None
    assert other is not None
    assert (other.low, other.high) == (0, math.inf)
    assert (other.value, other.texts) == (one.value, one.texts)
    assert predicted_rows(other)[0] == ("predicted KL", f"{other.value:#.4g}")
    assert (predicted_dict(other) or {})["high"] is None


def test_without_levels_or_with_other_losses_there_is_none() -> None:
    assert predicted(profile_of(None)) is None
    assert predicted(profile_of(levels_of(TEXTS)), "relative") is None
    assert predicted(replace(profile_of(levels_of(TEXTS)), fisher=None)) is None


def windows_of(random: np.random.Generator, count: int, spread: float) -> Float64[np.ndarray, "repeats windows"]:
    """Heavy-tailed windows in turn of four texts with means 1, 2, 4 and 8."""
    texts = np.tile(2.0 ** np.arange(4), count // 4)
    return texts * random.lognormal(-(spread**2) / 2, spread, size=(600, count))


@pytest.mark.parametrize(("count", "spread", "common"), [(8, 0.3, 0), (16, 0.7, 0), (16, 0.3, 0.1), (48, 0.1, 0.2)])
def test_it_holds_as_often_as_it_says(count: int, spread: float, common: float) -> None:
    """Also where all windows are off by a common factor."""
    random, levels = np.random.default_rng(3), levels_of(("a", "b", "c", "d") * (count // 4))
    drawn = windows_of(random, count, spread) * random.lognormal(0, common, size=(600, 1))
    found = [from_windows(windows, levels, model_error=common) for windows in drawn]
    held = np.mean([each.low <= 15 / 4 <= each.high for each in found])
    assert CONFIDENCE - 0.07 < held < CONFIDENCE + 0.05


def estimate(value: float, error: float = 0.0) -> Estimate:
    return Estimate(value, math.nan, error)


@examples(60)
@given(st.floats(1e-3, 1), st.floats(1.01, 3), st.floats(0.05, 20), st.floats(0, 0.5), st.floats(0.1, 10))
def test_laws_of_the_place(value: float, width: float, ratio: float, error: float, scale: float) -> None:
    expected = PredictedKl(value, value / width, value * width, {})
    found = expected.place(estimate(value * ratio, error * value * ratio))
    if 1 / width < 0.999 * ratio and 1.001 * ratio < width:
        assert found is Place.WITHIN, "an error of the measured value only widens"
    elif error == 0 and not 0.999 / width < ratio < 1.001 * width:
        assert found is (Place.ABOVE if ratio > 1 else Place.BELOW)
    near_the_end = math.isclose(abs(math.log(ratio)), math.hypot(math.log(width), 1.6448536 * error), rel_tol=1e-3)
    scaled = PredictedKl(scale * value, scale * value / width, scale * value * width, {})
    assert near_the_end or scaled.place(estimate(scale * value * ratio, scale * error * value * ratio)) is found


def test_the_error_of_the_measured_value_counts() -> None:
    expected = PredictedKl(0.02, 0.016, 0.025, {})
    assert expected.place(estimate(0.0255)) is Place.ABOVE
    assert expected.place(estimate(0.0255, 0.003)) is Place.WITHIN
    assert expected.place(estimate(0.0255, math.nan)) is Place.ABOVE, "a single token has no error"


def test_what_is_said_of_a_prediction_and_what_was_measured() -> None:
    expected = PredictedKl(0.021, 0.017, 0.026, {"math": 0.021})
    within = beside_measured_text(expected, estimate(0.0201, 0.0004))
    assert within == "predicted 0.0170 to 0.0260, measured 0.0201 ± 0.00040: within the interval"
    assert "above the interval, which is of text like" in (beside_measured_text(expected, estimate(0.05)) or "")
    assert "below the interval" in (beside_measured_text(expected, estimate(0.001)) or "")
    found = beside_measured_dict(expected, estimate(0.0201, 0.0004)) or {}
    assert found | (predicted_dict(expected) or {}) == found
    assert (found["measured"], found["error"], found["place"]) == (0.0201, 0.0004, "within")


@pytest.mark.parametrize("measured", [0.0, math.nan, math.inf])
def test_where_nothing_was_measured_nothing_is_said(measured: float) -> None:
    expected = PredictedKl(0.021, 0.017, 0.026, {})
    assert beside_measured_text(expected, estimate(measured)) is None
    assert (beside_measured_dict(expected, estimate(measured)) or {})["place"] is None


def test_without_an_interval_only_the_numbers_stand_side_by_side() -> None:
    unknown = PredictedKl(0.021, 0.0, math.inf, {})
    assert beside_measured_text(unknown, estimate(0.02)) is None
    found = beside_measured_dict(unknown, estimate(0.02)) or {}
    assert (found["kl"], found["measured"], found["place"]) == (0.021, 0.02, None)
    assert beside_measured_dict(None, estimate(0.02)) is None
