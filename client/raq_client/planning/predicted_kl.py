"""Predicted KL divergence of an allocation with an interval, in all and on each text of the calibration.

A table's losses are means over the windows of text from which Fisher information was collected. The KL divergence of
window w is Σ_t L[t, type] × level[t, w], with the level of the tensor's Fisher information in that window relative to
its mean, so that the spread over windows says how well the mean is known.

Rules
- Windows are strata by text. Within a text a window's deviation relative to the text's mean is pooled over all texts:
  texts differ in level far more than in relative spread, and a text has few windows.
- The interval is that of the logarithm with Student's t, because losses are positive and have heavy tails.
- Losses themselves are not exact (second order, rows times columns, tensors one by one). Their error has a measured
  constant, MODEL_ERROR, and adds to that of the mean as an independent one.
- It is of text like the calibration's. On text of other kinds the KL divergence differs by more (docs/quality.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import NormalDist
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_client.evaluation.statistics import Estimate, student_quantile
from raq_client.planning.build_problem import ProblemSpec
from raq_solver.losses import LossTable
from raq_solver.profile import FisherLevels, Profile

CONFIDENCE: Final = 0.9
"""How often the interval is to hold the KL divergence of text like the calibration's."""

MODEL_ERROR: Final = 0.1
"""Standard error of predictions beside that from the choice of windows, relative. Measured on held-out text of the
calibration's kinds, from 3.3 to 5.8 bits per weight: nearly 0 on wiki-math-4M, 0.1 on a hybrid (docs/quality.md)."""
_UNKNOWN: Final = 20.0
"""Logarithms of a width from which on it says nothing."""


class Place(Enum):
    """Where a measured KL divergence lies beside an interval."""

    BELOW = "below"
    WITHIN = "within"
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class PredictedKl:
    """A predicted KL divergence in nats per token, the ends of its interval, and its value on each text by name.

    Where nothing is known of the spread, as of a single window, the interval is from 0 to infinity.
    """

    value: float
    low: float
    high: float
    texts: Mapping[str, float]

    def place(self, measured: Estimate) -> Place | None:
        """Where a measured KL divergence lies, the interval widened by the error of the measured value itself.

        Logarithms of both widths are added in quadrature, as independent errors. None where the interval is not known
        or nothing was measured.

        >>> expected = PredictedKl(0.020, 0.016, 0.025, {})
        >>> expected.place(Estimate(0.021, 0.001, 0.001)), expected.place(Estimate(0.040, 0.001, 0.001))
        (<Place.WITHIN: 'within'>, <Place.ABOVE: 'above'>)
        """
        if not (self.low > 0 and math.isfinite(self.high) and 0 < measured.value < math.inf):
            return None
        error = measured.error / measured.value if math.isfinite(measured.error) else 0.0
        away = math.log(measured.value / self.value)
        end = math.log(self.high / self.value) if away > 0 else math.log(self.value / self.low)
        if abs(away) <= math.hypot(end, NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error):
            return Place.WITHIN
        return Place.ABOVE if away > 0 else Place.BELOW


def predicted_kl(spec: ProblemSpec, types: Mapping[str, str]) -> PredictedKl | None:
    """The predicted KL divergence of an allocation with these types.

    None where the losses are not by Fisher information, or it is not kept by window.
    """
    profile = spec.profile
    if profile is None or profile.fisher is None or profile.levels is None or spec.request.loss not in {None, "fisher"}:
        return None
    return predicted_of(profile, spec.problem.table, types)


def predicted_of(profile: Profile, table: LossTable, types: Mapping[str, str]) -> PredictedKl:
    """The same for a profile that has levels and its table of losses by Fisher information.

    With experts the interval is not known: which experts a token reaches changes with the weights, and predictions are
    half of what is measured (docs/quality.md).
    """
    levels = profile.levels
    assert levels is not None, "the caller asked"
    rows = np.arange(len(table.tensors))
    losses = table.losses[rows, [table.column_of[types[name]] for name in table.tensors]]
    found = from_windows(losses @ levels.levels, levels)
    routed = any(tensor.matrices > 1 for tensor in profile.tensors)
    return replace(found, low=0.0, high=math.inf) if routed else found


def from_windows(
    windows: Float64[np.ndarray, " windows"],
    levels: FisherLevels,
    confidence: float = CONFIDENCE,
    model_error: float = MODEL_ERROR,
) -> PredictedKl:
    """The mean of the KL divergences of windows, with an interval of this confidence between 0 and 1.

    `model_error` is the relative standard error that all windows have in common; 0 for measured ones.
    """
    weights, names = levels.weights / levels.weights.sum(), np.array(levels.texts)
    strata = {text: weights * (names == text) for text in dict.fromkeys(levels.texts)}
    counting = {text: own for text, own in strata.items() if own.any()}
    texts = {text: float(windows @ own / own.sum()) for text, own in counting.items()}
    value = float(windows @ weights)
    used = int(np.count_nonzero(weights))
    # One window of each text says nothing of the spread within a text: then all are taken for one text.
    parts = list(counting.values()) if used > len(counting) else [weights]
    freedom = used - len(parts)
    if value == 0 or freedom == 0:
        return PredictedKl(value, 0.0, math.inf if value else 0.0, texts)
    quantile = (1 + confidence) / 2
    of_windows = student_quantile(freedom, quantile) * _relative_error(windows, parts, freedom)
    exponent = math.hypot(of_windows, NormalDist().inv_cdf(quantile) * model_error)
    width = math.exp(exponent) if exponent < _UNKNOWN else math.inf
    return PredictedKl(value, value / width, value * width, texts)


def _relative_error(windows: Float64[np.ndarray, " windows"], strata: Sequence[np.ndarray], freedom: int) -> float:
    """The standard error of the weighted mean, relative to it; strata are the weights of their windows, else 0."""
    deviations = variance = 0.0
    for own in strata:
        mean = float(windows @ own / own.sum())
        if mean > 0:
            deviations += float(np.square(windows[own > 0] / mean - 1).sum())
            variance += mean**2 * float(np.square(own).sum())
    return math.sqrt(variance * deviations / freedom) / float(windows @ sum(strata))
