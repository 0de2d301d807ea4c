"""Estimate sensitivities from evaluations: a Bayesian regression with a prior from similar tensors.

Model: KL of an evaluation = Σ s_t E_t over its tensors + noise, the linearity theorem (HIGGS, arXiv 2411.17525).
Measured on the two models of the project at 8 windows of 512: the sum over 30 single tensors is 0.995, 0.998 and
1.007 times the KL of all at once at Q3_K, Q4_K and Q6_K, and 0.82 at Q2_K.

Prior: a tensor's sensitivity is its expected value (from a loss model that needs no run, or equal for all), times an
effect of its role and one of its depth. Both effects are fitted to the logarithms of a first, weakly regularized
solution; their residual spread is the width of the prior.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float64

from raq_solver.tensor_names import block_of, role_of

SINGLE_MODEL_ERROR = 0.02
"""Assumed relative error of the linear model for one tensor: a quantization error is one random draw."""
GROUP_MODEL_ERROR = 0.05
"""The same for several tensors at once, whose errors also interact."""
DEPTH_ZONES = 4
"""Number of depth zones with similar tensors; the first and the last block are zones of their own."""
WIDE = 3.0
"""Width of the first prior, in multiples of the expected value, or of the mean of all if that is larger."""
USUAL_SPREAD, USUAL_WEIGHT = 0.8, 4.0
"""Prior spread of tensors around their role and depth in natural logarithms, and its weight as a number of well
measured tensors. (4M model: 0.9 around one value common to all roles and depths.)"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run of the model with some tensors replaced by their probes.

    `errors` are the probes' relative output errors, `kl` the mean KL divergence in nats per token, `kl_error` its
    standard error.
    """

    tensors: tuple[str, ...]
    errors: tuple[float, ...]
    kl: float
    kl_error: float


@dataclass(frozen=True, eq=False)
class Fit:
    """Sensitivities in nats per unit of relative output error, with standard errors.

    `information` is the share of the knowledge about a tensor that comes from evaluations: 1 all, 0 none (prior only).
    """

    values: Float64[np.ndarray, " tensors"]
    errors: Float64[np.ndarray, " tensors"]
    information: Float64[np.ndarray, " tensors"]


def fit_sensitivities(
    names: Sequence[str],
    evaluations: Sequence[Evaluation],
    floor: float = 0.0,
    expected: Mapping[str, float] = MappingProxyType({}),
) -> Fit:
    """Sensitivities of `names` from evaluations of groups of them; `floor` is the KL of changing nothing.

    `expected` are sensitivities expected without a run, in any unit; a tensor without one, or with 0, gets their
    geometric mean. If no evaluation shows a loss, all sensitivities are 0 with an error of 0.
    """
    design, losses, noise = _system(names, evaluations, floor)
    shape = _expected_shape(names, expected)
    reach = float((design @ shape).sum())
    scale = float(losses.sum()) / reach if reach > 0 else 0.0
    if scale <= 0:
        nothing = np.zeros(len(names))
        return Fit(nothing, nothing.copy(), nothing.copy())
    # The expectations have any unit: scale them so that they explain the total measured loss.
    foreseen = scale * shape
    wide = WIDE * np.maximum(foreseen, foreseen.mean())
    # First pass with a wide prior, only to estimate the effects of role and depth from well measured tensors.
    first, doubt, _ = _posterior(design, losses, noise, foreseen, wide)
    known = np.square(first) / (np.square(first) + np.square(doubt))
    effects, spread = _like_tensors(names, np.maximum(first / foreseen, 1e-3), known)
    centre = foreseen * effects
    width = centre * np.sqrt(np.expm1(spread**2))  # standard deviation of a log-normal with that spread
    # Widen the prior of a tensor whose measurement contradicts its expectation, so that it is not pulled back.
    width = np.maximum(width, np.abs(first - centre) - 2 * doubt)
    values, errors, information = _posterior(design, losses, noise, centre, width)
    return Fit(np.maximum(values, 0.0), errors, information)


def _expected_shape(names: Sequence[str], expected: Mapping[str, float]) -> Float64[np.ndarray, " tensors"]:
    """The expected sensitivity of each tensor, as a multiple of the geometric mean."""
    logs = np.array([math.log(expected[name]) if expected.get(name, 0.0) > 0 else math.nan for name in names])
    known = np.isfinite(logs)
    if not known.any():
        return np.ones(len(names))
    shape: np.ndarray = np.exp(np.where(known, logs - logs[known].mean(), 0.0))
    return shape


def _system(
    names: Sequence[str], evaluations: Sequence[Evaluation], floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    column = {name: index for index, name in enumerate(names)}
    design = np.zeros((len(evaluations), len(names)))
    for row, evaluation in enumerate(evaluations):
        for name, error in zip(evaluation.tensors, evaluation.errors, strict=True):
            design[row, column[name]] = error
    losses = np.array([evaluation.kl - floor for evaluation in evaluations])
    granted = [SINGLE_MODEL_ERROR if len(e.tensors) == 1 else GROUP_MODEL_ERROR for e in evaluations]
    sampling = np.array([evaluation.kl_error for evaluation in evaluations])
    noise = np.hypot(sampling, np.array(granted) * np.abs(losses))
    return design, losses, np.maximum(noise, 1e-12)


def _posterior(
    design: np.ndarray, losses: np.ndarray, noise: np.ndarray, centre: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior mean, standard deviation, and the share of the prior's variance removed by the evaluations."""
    # Gaussian prior and noise. In units of the prior's width the prior precision is the identity matrix, which keeps
    # the system well conditioned although sensitivities differ by orders of magnitude.
    scaled = (design * width) / noise[:, None]
    inverse = np.linalg.inv(np.eye(len(centre)) + scaled.T @ scaled)
    surprise = (losses - design @ centre) / noise
    mean = centre + width * (inverse @ (scaled.T @ surprise))
    variance = np.clip(np.diag(inverse), 0.0, 1.0)
    return mean, width * np.sqrt(variance), 1.0 - variance


def _like_tensors(names: Sequence[str], first: np.ndarray, information: np.ndarray) -> tuple[np.ndarray, float]:
    """The factors of role and depth for each tensor's expectation, and the spread around them (natural logarithms)."""
    features = _features(names)
    target = np.log(first)
    weights = np.maximum(information, 1e-6)
    centred = target - np.average(target, weights=weights)
    # A ridge of one pseudo-observation per effect, so that a role with one tensor is not fitted exactly.
    normal = features.T @ (weights[:, None] * features) + np.eye(features.shape[1])
    effects = np.linalg.solve(normal, features.T @ (weights * centred))
    expected = features @ effects
    squares = np.square(centred - expected)
    known = weights @ squares + USUAL_WEIGHT * USUAL_SPREAD**2
    spread = float(np.sqrt(known / (weights.sum() + USUAL_WEIGHT)))
    return np.exp(expected + np.average(target, weights=weights)), spread


def _features(names: Sequence[str]) -> Float64[np.ndarray, "tensors effects"]:
    blocks = [block_of(name) for name in names]
    last = max(blocks, default=0)
    labels = [(role_of(name), _zone(block, last)) for name, block in zip(names, blocks, strict=True)]
    effects = sorted({("role", role) for role, _ in labels} | {("zone", zone) for _, zone in labels})
    return np.array(
        [
            [float((kind == "role" and role == label) or (kind == "zone" and zone == label)) for kind, label in effects]
            for role, zone in labels
        ]
    )


def _zone(block: int, last: int) -> str:
    if block < 0:
        return "outside"
    if block in {0, last}:
        return "first" if block == 0 else "last"
    return f"middle {DEPTH_ZONES * block // (last + 1)}"
