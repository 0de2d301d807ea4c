"""Measure sensitivities: the loss of the whole model in nats per unit of relative output error of one tensor.

The model stays loaded. A tensor (or a group) is replaced in place by its quantized and dequantized values, the model
is run on some windows, and the KL divergence from the unchanged model is divided by the relative output error of the
replaced values. Nothing is written or reloaded, and the unchanged model's logits are recorded once.

With as many evaluations as tensors, each tensor is evaluated alone: the most precise design, since the noise of an
evaluation grows with the loss it measures. With fewer, the tensor with the highest value of information is evaluated
next, and the others are estimated from expectations, role and depth. With very few evaluations and known expectations,
whole roles are evaluated first, each as a group. With a limit on the time, tensors are evaluated alone, in the order of
that value, until it is over: what was measured depends on their number only.

Tensors can be chosen in batches, for several machines: each further one of a batch as if the evaluations of those
before it had given what is expected of them (the kriging believer of Ginsbourger, Le Riche and Carraro, 2010). The size
of a batch belongs to the question, not to the machines: any number of them makes the same evaluations.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.quantizing.measure import kernels_digest
from raq_client.sensitivity.choices import Choices
from raq_client.sensitivity.design import Design, Group, most_telling, planned_groups
from raq_client.sensitivity.fit import Evaluation, Fit, fit_sensitivities
from raq_client.sensitivity.journal import Journal
from raq_client.sensitivity.runs import Progress, Runs, TrialRuns
from raq_client.sensitivity.time_limit import TimeLimit
from raq_solver.errors import Fault, InvalidInput
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType

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
    batch: int = 1,
    seconds: float | None = None,
    choices: Choices | None = None,
    expected: Mapping[str, float] = MappingProxyType({}),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Sensitivities:
    """Measure the sensitivity of every quantizable tensor with at most `evaluations` runs (None: one per tensor).

    `seconds` limits the time for them: after the first none begins that would end later.

    `design` determines the first evaluations (`design.planned_groups`), `choices` which tensors are evaluated next,
    `batch` of them at a time. `expected` are sensitivities expected without a run, in any unit, e.g. those of the loss
    model `residual`; they are used if there are fewer evaluations than tensors. Two more runs measure the floor and the
    loss of all tensors at once. `cache` is a folder for the journal.

    Raises InvalidInput if the model can't be loaded, evaluated or written, or a text is missing or too short.
    """
    key = sensitivity_key(setup, probe)
    journal = Journal(cache / f"{key}.jsonl" if cache is not None else None)
    with Trial(setup) as trial:
        runs = TrialRuns(trial, setup, journal, probe, progress)
        question = Question(probe, evaluations, design, batch, seconds)
        return sensitivities_of(setup, question, runs, choices=choices, expected=expected)


@dataclass(frozen=True, slots=True)
class Question:
    """Which evaluations are asked for; see `measure_sensitivities`.

    Raises InvalidInput for numbers below 1, and for `seconds` with a design whose groups depend on their number.
    """

    probe: QuantType = DEFAULT_PROBE
    evaluations: int | None = None
    design: Design = "adaptive"
    batch: int = 1
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, number in (("evaluations", self.evaluations), ("batch", self.batch)):
            if number is not None and number < 1:
                raise InvalidInput(Fault(name, f"must be at least 1, not {number}"))
        if self.seconds is not None and self.design != "adaptive":
            what = (
                f"with a limit on the time tensors are evaluated one by one, so that the design can't be {self.design}"
            )
            raise InvalidInput(Fault("design", what))

    def planned(self, names: Group, *, foreseen: bool) -> list[Group]:
        """The groups that are evaluated first, whatever comes of them."""
        return (
            [] if self.seconds is not None else planned_groups(self.design, names, self.count(names), foreseen=foreseen)
        )

    def count(self, names: Group) -> int:
        """The number of evaluations of these tensors, without the two of none and of all."""
        return min(self.evaluations or len(names), len(names))

    def fixed(self, names: Group) -> list[Group] | None:
        """All groups to evaluate, where none depends on the result of another; else None."""
        count = self.count(names)
        if count < len(names) and self.design != "single":
            return None
        planned = planned_groups(self.design, names, count, foreseen=False)
        return [(), names, *planned] if len(planned) == count else None


def sensitivities_of(
    setup: TrialSetup,
    question: Question,
    runs: Runs,
    *,
    choices: Choices | None = None,
    expected: Mapping[str, float] = MappingProxyType({}),
) -> Sensitivities:
    """The sensitivities by evaluations of `runs`, which are of `setup`. Raises InvalidInput as `runs` does."""
    limit = None if question.seconds is None else TimeLimit(question.seconds)
    names = runs.tensors()
    count = question.count(names)
    if count == len(names) and limit is None:
        expected = {}  # each tensor has its own evaluation
    runs.expect(count + 2)
    floor, together, *found = runs.evaluate([(), names, *question.planned(names, foreseen=bool(expected))])
    made = 2
    while len(found) < count:
        batch = min(question.batch, count - len(found))
        if limit is not None:
            more = max(limit.more(made), 0 if found else 1)
            runs.expect(min(count, len(found) + more) + 2)
            batch = min(batch, more)
        chosen = _chosen(names, found, floor, together, choices, expected, batch)
        if not chosen:
            break
        found += runs.evaluate(chosen)
        made = len(chosen)
    if limit is not None and len(found) == len(names):
        expected = {}
        found.sort(key=lambda evaluation: names.index(evaluation.tensors[0]))  # as without a limit
    provenance = _provenance(setup, question, len(found))
    return _found(setup, names, found, floor, together, expected, provenance)


def _chosen(
    names: Group,
    found: Sequence[Evaluation],
    floor: Evaluation,
    together: Evaluation,
    choices: Choices | None,
    expected: Mapping[str, float],
    batch: int,
) -> list[Group]:
    """The next tensors to evaluate alone, the most telling one first; fewer than `batch` where no more are left."""
    errors = dict(zip(together.tensors, together.errors, strict=True))
    believed = list(found)
    for _ in range(batch):
        fit = fit_sensitivities(names, [*believed, together], floor.kl, expected)
        name = most_telling(names, fit, choices, frozenset(evaluation.tensors for evaluation in believed))
        if name is None:
            break
        foreseen = float(fit.values[names.index(name)]) * errors[name]
        believed.append(Evaluation((name,), (errors[name],), floor.kl + foreseen, 0.0))
    return [evaluation.tensors for evaluation in believed[len(found) :]]


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


def _provenance(setup: TrialSetup, question: Question, evaluations: int) -> Mapping[str, str]:
    windows = f"{setup.windows} windows of {setup.context} tokens"
    batches = "" if question.batch == 1 else f" in batches of {question.batch}"
    return MappingProxyType(
        {
            "sensitivity": f"{evaluations} evaluations at {question.probe.name}{batches}, {windows}",
            "sensitivity_texts": ", ".join(text.name for text in setup.texts),
            "sensitivity_key": sensitivity_key(setup, question.probe),
        }
    )


def sensitivity_key(setup: TrialSetup, probe: QuantType) -> str:
    """A digest of everything that an evaluation depends on but its tensors."""
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
