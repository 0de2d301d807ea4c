"""Sensitivities as units: one evaluation of the loaded model each, and one that lists the tensors it uses.

Where each tensor has its own evaluation, all are known at the start and any machine makes any of them. With fewer, the
results of one batch choose the next: the machines make one batch together, each goes on when its lines are there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

from raq_client.engine import DEFAULT_CONTEXT
from raq_client.engine.windows import Text
from raq_client.evaluation.in_memory import Trial, TrialSetup
from raq_client.planning.model_inputs import ModelInputs
from raq_client.quantizing.effort import measuring_cost
from raq_client.sensitivity.design import Group
from raq_client.sensitivity.fit import Evaluation
from raq_client.sensitivity.measure import sensitivity_key
from raq_client.sensitivity.runs import Progress, evaluation_of, perturbed_tensors
from raq_client.units.costs import running_cost
from raq_client.units.journal import Journal
from raq_client.units.unit import Line, Unit, Work
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType

USES: Final = Unit("uses", 0.0)
"""The unit whose line has the names of the tensors that can be perturbed."""


@dataclass(frozen=True, eq=False)
class ProbeJob:
    """Evaluations of the model of `inputs` with tensors perturbed as `probe`, on windows of these texts."""

    loads_model: ClassVar[bool] = True
    inputs: ModelInputs
    texts: tuple[Text, ...]
    probe: QuantType
    windows: int
    context: int = DEFAULT_CONTEXT
    library: Path | None = None

    @cached_property
    def setup(self) -> TrialSetup:
        """What the evaluations are made with. Raises InvalidInput if there is no text."""
        return self.inputs.trial_setup(self.texts, self.windows, context=self.context, library=self.library)

    @cached_property
    def key(self) -> str:
        """The digest that names the journal of one process too."""
        return sensitivity_key(self.setup, self.probe)

    @cached_property
    def _trial(self) -> Trial:
        return Trial(self.setup).__enter__()  # until `close`

    def unit_of(self, group: Group) -> Unit:
        """The evaluation of these tensors; `run` reads them from its name."""
        model = self.inputs.model
        changed = sum(model.tensor(name).weights for name in group)
        everything = sum(tensor.weights for tensor in model.tensors)
        run = running_cost(everything, self.windows * self.context)
        return Unit(json.dumps(group), run + changed * measuring_cost(self.probe))

    def run(self, unit: Unit) -> Line:
        """The evaluation. Raises InvalidInput if the model can't be loaded, or its output is not finite."""
        if unit == USES:
            return {"uses": list(perturbed_tensors(self._trial, self.setup))}
        found = evaluation_of(self._trial, tuple(json.loads(unit.name)), self.probe)
        return {"errors": list(found.errors), "kl": found.kl, "kl_error": found.kl_error}

    again = run

    def unopened(self, threads: int) -> "ProbeJob":
        """The same job with nothing loaded."""
        return replace(self, inputs=replace(self.inputs, threads=threads))

    def close(self) -> None:
        """Free the model, if it is loaded; a further unit loads it again."""
        if "_trial" in self.__dict__:
            self._trial.__exit__(None, None, None)
            del self.__dict__["_trial"]


Make = Callable[[Work, Sequence[Unit], Journal, Progress | None], object]
"""Makes those of these units whose lines are not in the journal; what it returns is not used."""


class SharedRuns:
    """Evaluations from the lines of a journal, by their `sensitivity.runs.Runs`; `make` has missing ones made."""

    def __init__(self, job: ProbeJob, journal: Journal, make: Make | None, progress: Progress | None = None) -> None:
        self._job, self._journal, self._make, self._progress = job, journal, make, progress
        self._done, self._total = 0, 0

    def tensors(self) -> Group:
        """The tensors to perturb."""
        return tuple(self._lines([USES])[USES.name]["uses"])

    def expect(self, total: int) -> None:
        """Take note of the number of evaluations."""
        self._total = total

    def evaluate(self, groups: Sequence[Group]) -> list[Evaluation]:
        """The evaluations. Raises InvalidInput if lines are missing and nothing makes them."""
        units = [self._job.unit_of(group) for group in groups]
        lines = self._lines(units)
        self._done += len(groups)
        if self._progress is not None:
            self._progress(self._done, self._total)
        found = []
        for group, unit in zip(groups, units, strict=True):
            line = lines[unit.name]
            found.append(Evaluation(group, tuple(line["errors"]), line["kl"], line["kl_error"]))
        return found

    def _lines(self, units: Sequence[Unit]) -> Mapping[str, Line]:
        known = self._journal.known()
        missing = [unit for unit in units if unit.name not in known]
        if missing and self._make is not None:
            self._make(self._job, missing, self._journal, self._partly(len(units)))
            known = self._journal.known()
            missing = [unit for unit in units if unit.name not in known]
        if missing:
            what = f"{len(missing)} of {len(units)} evaluations are not there; run the parts that have not ended again"
            raise InvalidInput(Fault(str(self._journal.folder.parent), f"{what}, with the same files and options"))
        return known

    def _partly(self, size: int) -> Progress:
        """Progress within one call: its cost is that of `size` evaluations."""

        def report(done: int, total: int) -> None:
            if self._progress is not None and self._total:
                self._progress(self._done + done * size // max(total, 1), self._total)

        return report
