"""A profile with sensitivities as units of two jobs: errors of every tensor, evaluations of the loaded model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from raq_client.planning.build_problem import build_problem
from raq_client.planning.request import Request
from raq_client.progress import Notes, Progress, silent, stage
from raq_client.sensitivity.choices import choices_of
from raq_client.sensitivity.design import expected_of
from raq_client.sensitivity.measure import Question, Sensitivities, sensitivities_of
from raq_client.units import carry_out
from raq_client.units.journal import Journal
from raq_client.units.probing import USES, Make, ProbeJob, SharedRuns
from raq_client.units.profiling import ProfileJob
from raq_client.units.unit import Part, Unit, Work, part
from raq_solver.profile import Profile


@dataclass(frozen=True, eq=False)
class SharedSensitivity:
    """Measuring sensitivities by several processes, with lines in `folder`.

    `request` limits the allocations for which a tensor's sensitivity may matter.
    """

    probes: ProbeJob
    question: Question
    request: Request
    folder: Path
    errors: ProfileJob = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", ProfileJob(self.probes.inputs))

    @cached_property
    def journals(self) -> tuple[Journal, Journal]:
        """The lines of the errors and of the evaluations; to be closed, as context managers."""
        return Journal(self.folder, self.errors), Journal(self.folder, self.probes)

    def part(self, wanted: Part, progress: Progress | None = None, notes: Notes = silent) -> None:
        """Make one of several parts.

        Where results choose the next evaluations, all parts are made together, and each ends when everything is there.
        Raises InvalidInput if a unit fails.
        """
        of_errors, of_probes = self.journals
        carry_out.run_units(self.probes, [USES], of_probes)
        fixed = self.question.fixed(tuple(of_probes.known()[USES.name]["uses"]))
        if fixed is None:

            def make(work: Work, units: Sequence[Unit], journal: Journal, report: carry_out.Progress | None) -> None:
                carry_out.run_part_and_rest(work, units, wanted, journal, report)

            self.finish(make, progress=progress, notes=notes)
            return
        carry_out.run_part(self.errors, wanted, of_errors, stage(progress, "measuring errors"))
        mine = part([self.probes.unit_of(group) for group in fixed], wanted)
        carry_out.run_units(self.probes, mine, of_probes, stage(progress, "measuring sensitivity"))

    def finish(
        self,
        make: Make | None = None,
        *,
        verified: Fraction | None = None,
        progress: Progress | None = None,
        notes: Notes = silent,
    ) -> tuple[Profile, Sensitivities]:
        """The profile, as yet without the sensitivities, and these, from the lines of all units.

        Missing units are made by `make`. With `verified` units of this share of the cost are computed again. Raises
        InvalidInput if a unit fails or is missing, or if a verified one differs.
        """
        of_errors, of_probes = self.journals
        if make is not None:
            make(self.errors, self.errors.units, of_errors, stage(progress, "measuring errors"))
        lines = carry_out.complete(self.errors, of_errors)
        if verified is not None:
            carry_out.verify(self.errors, lines, verified, stage(progress, "verifying errors"))
        profile = self.errors.finish(lines, of_errors, progress, notes)
        table = self.probes.inputs.table(profile)
        spec = build_problem(self.request, profile, table, needs_budget=False)
        runs = SharedRuns(self.probes, of_probes, make, stage(progress, "measuring sensitivity"))
        found = sensitivities_of(
            self.probes.setup,
            self.question,
            runs,
            choices=choices_of(profile, spec.problem, sizes=spec.budget is not None),
            expected=expected_of(profile),
        )
        if verified is not None:
            groups = (found.floor, found.together, *found.evaluations)
            units = [self.probes.unit_of(each.tensors) for each in groups]
            report = stage(progress, "verifying sensitivity")
            carry_out.verify_units(self.probes, units, of_probes.known(), verified, report)
        return profile, found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Free the model, and close the lines."""
        for journal in self.journals:
            journal.__exit__(kind, error, at)
        self.probes.close()
        self.errors.close()
