"""Evaluations of groups of tensors: made in this process one after the other, or taken from its journal."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from raq_client.evaluation.in_memory import BrokenByTrialError, Trial, TrialSetup
from raq_client.evaluation.statistics import estimate_mean
from raq_client.models.quantizable import is_quantizable
from raq_client.sensitivity.design import Group
from raq_client.sensitivity.fit import Evaluation
from raq_client.sensitivity.journal import Journal
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType

Progress = Callable[[int, int], None]
"""Called after each evaluation with the number of evaluations done and the total."""


class Runs(Protocol):
    """Where evaluations come from. Whatever makes them, and in whatever order, they are the same to the bit."""

    def tensors(self) -> Group:
        """The tensors that the model uses and that can be perturbed, at least one."""

    def expect(self, total: int) -> None:
        """Take note of the number of evaluations that will be asked for, for progress."""

    def evaluate(self, groups: Sequence[Group]) -> list[Evaluation]:
        """The evaluations of these groups, in their order; no two of them are the same group."""


class TrialRuns:
    """Evaluations with a model in this process; those in the journal need no model."""

    def __init__(
        self, trial: Trial, setup: TrialSetup, journal: Journal, probe: QuantType, progress: Progress | None
    ) -> None:
        self._trial, self._setup, self._journal, self._probe = trial, setup, journal, probe
        self._progress, self._done, self._total = progress, 0, 0

    def tensors(self) -> Group:
        """The tensors to perturb. Raises InvalidInput if there is none."""
        if self._journal.tensors is None:
            self._journal.use(perturbed_tensors(self._trial, self._setup))
        assert self._journal.tensors is not None, "just noted"
        return self._journal.tensors

    def expect(self, total: int) -> None:
        """Take note of the number of evaluations."""
        self._total = total

    def evaluate(self, groups: Sequence[Group]) -> list[Evaluation]:
        """The evaluations. Raises InvalidInput as `evaluation_of` does."""
        found = []
        for group in groups:
            known = self._journal.get(group)
            if known is None:
                known = evaluation_of(self._trial, group, self._probe)
                self._journal.add(known)
            found.append(known)
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
        return found


def evaluation_of(trial: Trial, group: Group, probe: QuantType) -> Evaluation:
    """Run the model with these tensors perturbed. Raises InvalidInput if its output is then not finite."""
    try:
        result = trial.run(dict.fromkeys(group, probe))
    except BrokenByTrialError as error:
        what = f"perturbing it as {probe.name} breaks the model: its output is not finite"
        raise InvalidInput(Fault(", ".join(group), what)) from error
    kl = estimate_mean(result.scores.kl)
    errors = tuple(result.errors[name] for name in group)
    return Evaluation(group, errors, kl.value, kl.error if np.isfinite(kl.error) else 0.0)


def perturbed_tensors(trial: Trial, setup: TrialSetup) -> Group:
    """The quantizable tensors that the loaded model uses as plain floats. Raises InvalidInput if there is none."""
    writable = trial.writable()
    wanted = [t.name for t in setup.model.tensors if is_quantizable(t, setup.model.architecture)]
    used = tuple(name for name in wanted if name in writable)
    if not used:
        what = "has no tensor to perturb: sensitivity needs F16, BF16 or F32 weights"
        raise InvalidInput(Fault(str(setup.path), what))
    return used
