"""Measure sensitivities: the loss of the whole model in nats per unit of relative output error of one tensor.

The model stays loaded. A tensor (or a group) is replaced in place by its quantized and dequantized values, the model
is run on some windows, and the KL divergence from the unchanged model is divided by the relative output error of the
replaced values. Nothing is written or reloaded, and the unchanged model's logits are recorded once.

With as many evaluations as tensors, each tensor is evaluated alone: the most precise design, since the noise of an
evaluation grows with the loss it measures. With fewer, the tensor with the highest value of information is evaluated
next, and the others are estimated from expectations, role and depth. With very few evaluations and known expectations,
whole roles are evaluated first, each as a group.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from raq_client.evaluation.in_memory import BrokenByTrialError, Trial, TrialSetup
from raq_client.evaluation.statistics import estimate_mean
from raq_client.models.quantizable import is_quantizable
from raq_client.quantizing.measure import kernels_digest
from raq_client.sensitivity.choices import Choices
from raq_client.sensitivity.design import Design, Group, most_telling, planned_groups
from raq_client.sensitivity.fit import Evaluation, Fit, fit_sensitivities
from raq_client.sensitivity.journal import Journal
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType

Progress = Callable[[int, int], None]
"""Called after each evaluation with the number of evaluations done and the total."""
DEFAULT_PROBE = CATALOGUE["Q4_K"]


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """The sensitivity of each tensor in nats per token and unit of relative output error, and its evaluations.

    `floor` is the evaluation that changes nothing, `together` the one that changes every tensor; neither is in
    `evaluations`. `additivity` is the predicted over the measured KL divergence of all tensors at once, predicted
    without `together`: 1 if losses are additive. `tokens` is the number of tokens scored in each evaluation.
    """

    tensors: tuple[str, ...]
    fit: Fit
    evaluations: tuple[Evaluation, ...]
    floor: Evaluation
    together: Evaluation
    additivity: float
    tokens: int
    provenance: Mapping[str, str]

    def applied_to(self, profile: Profile) -> Profile:
        """The profile with these sensitivities; tensors that were not measured have none."""
        rows = {tensor.name: row for row, tensor in enumerate(profile.tensors)}
        values, errors = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        for index, name in enumerate(self.tensors):
            if name in rows:
                values[rows[name]], errors[rows[name]] = self.fit.values[index], self.fit.errors[index]
        provenance = {**profile.provenance, **self.provenance}
        return replace(profile, sensitivities=values, sensitivity_errors=errors, provenance=provenance)


def measure_sensitivities(
    setup: TrialSetup,
    *,
    probe: QuantType = DEFAULT_PROBE,
    evaluations: int | None = None,
    design: Design = "adaptive",
    choices: Choices | None = None,
    expected: Mapping[str, float] = MappingProxyType({}),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Sensitivities:
    """Measure the sensitivity of every quantizable tensor with at most `evaluations` runs (None: one per tensor).

    `design` determines the first evaluations (`design.planned_groups`), `choices` which tensors are evaluated next.
    `expected` are sensitivities expected without a run, in any unit, e.g. those of the loss model `residual`; they are
    used if there are fewer evaluations than tensors. Two more runs measure the floor and the loss of all tensors at
    once. `cache` is a folder for the journal.

    Raises InvalidInput if the model can't be loaded, evaluated or written, or a text is missing or too short.
    """
    if evaluations is not None and evaluations < 1:
        raise InvalidInput(Fault("evaluations", f"must be at least 1, not {evaluations}"))
    key = _key(setup, probe)
    journal = Journal(cache / f"{key}.jsonl" if cache is not None else None)
    with Trial(setup) as trial:
        names = _tensors(setup, journal, trial)
        count = min(evaluations or len(names), len(names))
        if count == len(names):
            expected = {}  # each tensor has its own evaluation
        runs = _Runs(trial, journal, probe, count + 2, progress)
        floor = runs.evaluate(())

        together = runs.evaluate(names)

        def choose(done: Sequence[Evaluation]) -> str | None:
            known = fit_sensitivities(names, [*done, together], floor.kl, expected)
            return most_telling(names, known, choices, frozenset(evaluation.tensors for evaluation in done))

        planned = planned_groups(design, names, count, foreseen=bool(expected))
        found = _evaluate_all(runs, planned, count, choose)
    return _found(setup, names, found, floor, together, expected, _provenance(setup, probe, len(found), key))


def _found(
    setup: TrialSetup,
    names: Group,
    evaluations: Sequence[Evaluation],
    floor: Evaluation,
    together: Evaluation,
    expected: Mapping[str, float],
    provenance: Mapping[str, str],
) -> Sensitivities:
    alone = fit_sensitivities(names, evaluations, floor.kl, expected)
    # With few evaluations, the loss of all tensors together determines the scale of the others.
    few = len(evaluations) < len(names)
    fit = fit_sensitivities(names, [*evaluations, together], floor.kl, expected) if few else alone
    column = dict(zip(names, alone.values.tolist(), strict=True))
    predicted = sum(column[name] * error for name, error in zip(together.tensors, together.errors, strict=True))
    measured = together.kl - floor.kl
    additivity = predicted / measured if measured > 0 else float("nan")
    tokens = setup.windows * (setup.context - 1 - setup.context // 2)
    return Sensitivities(names, fit, tuple(evaluations), floor, together, additivity, tokens, provenance)


def _provenance(setup: TrialSetup, probe: QuantType, evaluations: int, key: str) -> Mapping[str, str]:
    windows = f"{setup.windows} windows of {setup.context} tokens"
    return MappingProxyType(
        {
            "sensitivity": f"{evaluations} evaluations at {probe.name}, {windows}",
            "sensitivity_texts": ", ".join(text.name for text in setup.texts),
            "sensitivity_key": key,
        }
    )


class _Runs:
    """Makes evaluations, or takes them from the journal, and reports progress."""

    def __init__(self, trial: Trial, journal: Journal, probe: QuantType, total: int, progress: Progress | None) -> None:
        self._trial, self._journal, self._probe = trial, journal, probe
        self._total, self._progress, self._done = total, progress, 0

    def evaluate(self, group: Group) -> Evaluation:
        found = self._journal.get(group)
        if found is None:
            try:
                result = self._trial.run(dict.fromkeys(group, self._probe))
            except BrokenByTrialError as error:
                what = f"perturbing it as {self._probe.name} breaks the model: its output is not finite"
                raise InvalidInput(Fault(", ".join(group), what)) from error
            kl = estimate_mean(result.scores.kl)
            errors = tuple(result.errors[name] for name in group)
            found = Evaluation(group, errors, kl.value, kl.error if np.isfinite(kl.error) else 0.0)
            self._journal.add(found)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return found


def _evaluate_all(
    runs: _Runs,
    planned: Sequence[Group],
    count: int,
    choose: Callable[[Sequence[Evaluation]], str | None],
) -> list[Evaluation]:
    found = [runs.evaluate(group) for group in planned]
    while len(found) < count:
        name = choose(found)
        if name is None:
            break
        found.append(runs.evaluate((name,)))
    return found


def _tensors(setup: TrialSetup, journal: Journal, trial: Trial) -> Group:
    if journal.tensors is None:
        writable = trial.writable()
        wanted = [t.name for t in setup.model.tensors if is_quantizable(t, setup.model.architecture)]
        used = [name for name in wanted if name in writable]
        if not used:
            what = "has no tensor to perturb: sensitivity needs F16, BF16 or F32 weights"
            raise InvalidInput(Fault(str(setup.path), what))
        journal.use(used)
    assert journal.tensors is not None, "just noted"
    return journal.tensors


def _key(setup: TrialSetup, probe: QuantType) -> str:
    parts = [
        "sensitivity 1",
        setup.model.fingerprint(),
        setup.importance.digest() if setup.importance is not None else "none",
        setup.effort,
        kernels_digest(),
        probe.name,
        f"{setup.windows} x {setup.context}",
        *(text.digest().hex() for text in setup.texts),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
