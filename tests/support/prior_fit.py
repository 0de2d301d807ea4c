"""The fit behind raq_solver.loss_models.role_prior: a mixed model of ln(sensitivity), with each model's noise floor.

    value = floor + error × Σ over the group's tensors of exp(scale + effects + the model's own deviations)

Effects are those of role_prior; deviations are one per model (its scale), one for each of its roles and one for each
of its effects of place, all normal around 0. Roles are shrunk towards their common mean, places towards 0. Residuals
are taken in ln(value) with the variance that scatter of single tensors and noise give, and Student weights (a few
tensors of every model are outliers by far). Spreads of roles, places and deviations come from the EM algorithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from raq_solver.loss_models.role_prior import half_of, last_block
from raq_solver.tensor_names import block_of, role_of
from support.published_models import Published

DEGREES = 4.0
"""Of the Student weights."""
LEAST_SCATTER = 0.02
"""Relative error granted to every value."""
STEPS, FROZEN = 25, 9
"""Steps of the fit, the first of them with spreads as they start."""
START = {"role": 1.5, "place": 0.5, "model": 0.7, "own role": 0.5, "own place": 0.7}
"""Standard deviations to start with, in ln."""
FLOOR, FLOOR_DOUBT = 2.0, 0.7
"""Logit of a floor's share of the most it can be, and its standard deviation: 0.88, from 0.79 to 0.94."""

Key = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PriorFit:
    """Effects by key (`("role", R)`, `("place", P, half)`), spreads by kind, each model's floor in nats per token."""

    scale: float
    effects: dict[Key, float]
    errors: dict[Key, float]
    spreads: dict[str, float]
    floors: dict[str, float]
    scatter: float
    state: dict[Key, float] = field(repr=False)

    def predict(self, model: Published, names: Sequence[str]) -> np.ndarray:
        """ln of the sensitivities of tensors of a model, its own deviations unknown."""
        last = last_block(model.tensors)
        features = [features_of(name, last, experts=model.experts, tied=model.tied) for name in names]
        return np.array([self.scale + sum(self.effects.get(k, 0.0) * v for k, v in each.items()) for each in features])


def features_of(name: str, last: int, *, experts: bool, tied: bool) -> dict[Key, float]:
    """What role_prior adds up for a tensor."""
    block, role = block_of(name), role_of(name)
    found: dict[Key, float] = {("role", "tied" if role == "token_embd" and tied else role): 1.0}
    if block < 0:
        return found
    half = half_of(role)
    if block == 0:
        found["place", "first", half] = 1.0
    if block == last:
        found["place", "last", half] = 1.0
    if experts:
        found["place", "slope", half] = block / max(1, last) - 0.5
    return found


class _System:
    """Design of a fit: a row for each tensor, a column for each effect and deviation; `group` leads back to values."""

    def __init__(self, models: Sequence[Published]) -> None:
        self.models = models
        self.keys: dict[Key, int] = {}
        entries: list[list[tuple[int, float]]] = []
        group: list[int] = []
        model_of: list[int] = []
        for index, model in enumerate(models):
            last = last_block(model.tensors)
            for members in model.groups:
                for name in members:
                    found = features_of(name, last, experts=model.experts, tied=model.tied)
                    own = {("own " + key[0], model.name, *key[1:]): value for key, value in found.items()}
                    every = {**found, **own, ("model", model.name): 1.0}
                    entries.append([(self.keys.setdefault(key, len(self.keys)), v) for key, v in every.items()])
                    group.append(len(model_of))
                model_of.append(index)
        self.design = np.zeros((len(entries), len(self.keys)))
        for row, pairs in enumerate(entries):
            for column, value in pairs:
                self.design[row, column] = value
        self.group, self.model_of = np.array(group), np.array(model_of)
        self.starts = np.flatnonzero(np.diff(self.group, prepend=-1))
        self.values = np.concatenate([model.values for model in models])
        self.kinds = np.array([key[0] for key in self.keys])

    def of_each(self, what: Sequence[float]) -> np.ndarray:
        """A number of each model, for every value."""
        return np.array(what)[self.model_of]


def fit_prior(models: Sequence[Published], start: PriorFit | None = None) -> PriorFit:
    """Fit to these models. From `start` its spreads are kept and fewer steps are taken: to leave a model out."""
    system = _System(models)
    spreads = dict(START if start is None else start.spreads)
    state = np.array([start.state.get(key, 0.0) if start else 0.0 for key in system.keys])
    scale, scatter = (start.scale, start.scatter) if start else (-4.0, 0.4)
    logits = np.full(len(models), FLOOR)
    inverse = np.zeros((0, 0))
    for step in range(STEPS if start is None else FROZEN):
        tail, residual, share, inverse = _step(system, state, logits, scale, spreads, scatter)
        state, logits, scale = state + tail[0], logits + tail[1], scale + tail[2]
        if start is None and step >= FROZEN:
            doubt = np.diag(inverse)[: len(state)]
            for kind in spreads:
                at = system.kinds == kind
                spreads[kind] = float(np.sqrt(np.mean(np.square(state[at]) + doubt[at])))
            scatter = _scatter(residual, share, scatter)
    errors = dict(zip(system.keys, np.sqrt(np.diag(inverse)[: len(state)]).tolist(), strict=True))
    by_key = dict(zip(system.keys, state.tolist(), strict=True))
    common = {key: value for key, value in by_key.items() if key[0] in {"role", "place"}}
    floors = {m.name: m.most_floor / (1 + np.exp(-logit)) for m, logit in zip(models, logits.tolist(), strict=True)}
    return PriorFit(scale, common, {key: errors[key] for key in common}, spreads, floors, scatter, by_key)


def _step(
    system: _System, state: np.ndarray, logits: np.ndarray, scale: float, spreads: dict[str, float], scatter: float
) -> tuple[tuple[np.ndarray, np.ndarray, float], np.ndarray, np.ndarray, np.ndarray]:
    """A damped Gauss-Newton step: its parts; residuals of ln(signal); the signal's share of each value; covariance."""
    models, count = system.models, len(system.models)
    error, noise = system.of_each([m.error for m in models]), system.of_each([m.noise for m in models])
    most = system.of_each([m.most_floor for m in models])
    single = np.exp(np.clip(scale + system.design @ state, -20, 5)) * error[system.group]
    signal = np.add.reduceat(single, system.starts)
    floor = most / (1 + np.exp(-logits[system.model_of]))
    expected = signal + floor
    residual = np.log(system.values / expected)
    variance = (np.square(scatter * signal) + np.square(noise)) / np.square(expected) + LEAST_SCATTER**2
    weight = (DEGREES + 1) / (DEGREES + np.square(residual) / variance) / variance
    slopes = np.zeros((len(residual), len(state) + count + 1))
    slopes[:, : len(state)] = np.add.reduceat((single / expected[system.group])[:, None] * system.design, system.starts)
    slopes[np.arange(len(residual)), len(state) + system.model_of] = floor * (1 - floor / most) / expected
    slopes[:, -1] = signal / expected
    tight = np.array([1 / spreads[kind] ** 2 for kind in system.kinds])
    penalty = np.concatenate([tight, np.full(count, FLOOR_DOUBT**-2), [1e-6]])
    away = np.concatenate([state, logits - FLOOR, [0.0]])
    inverse = np.linalg.inv(slopes.T @ (weight[:, None] * slopes) + np.diag(penalty))
    move = inverse @ (slopes.T @ (weight * residual) - penalty * away)
    move *= min(1.0, 1 / np.abs(move).max())
    parts = move[: len(state)], move[len(state) : -1], float(move[-1])
    return parts, residual / (signal / expected), signal / expected, inverse


def _scatter(residual: np.ndarray, share: np.ndarray, before: float) -> float:
    """Scatter of single tensors around what their model's effects give, where the signal is most of the value."""
    clear = residual[share > 0.5]
    weight = (DEGREES + 1) / (DEGREES + np.square(clear / before))
    return float(np.sqrt(np.mean(weight * np.square(clear))))
