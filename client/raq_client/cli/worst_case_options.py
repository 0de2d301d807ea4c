"""Options for minimizing the worst case over domains."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from raq_client import pipeline
from raq_client.cli import options
from raq_client.cli.console import say
from raq_client.cli.follow import followed
from raq_client.cli.problem_options import ProblemOptions
from raq_client.files.settings import Settings
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan
from raq_client.planning.request import Request
from raq_client.solver_client.protocol import chosen_server
from raq_solver.backends.libraries import check_libraries
from raq_solver.errors import Fault, InvalidInput
from raq_solver.questions.worst_case import WorstCaseMeasure


class MeasureName(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """The measure in which domains are compared."""

    RATIO = "ratio"
    NATS = "nats"


@dataclass(frozen=True)
class WorstCaseOptions:
    """Whether each importance file, or each text of one, is a domain, and the worst is to be optimized."""

    worst_case: Annotated[
        bool,
        typer.Option(
            "--worst-case",
            help="Each --imatrix (or --profile), or each text of a single one, is a domain; optimize the worst.",
            rich_help_panel=options.DOMAINS_PANEL,
        ),
    ] = False
    worst_in: Annotated[
        MeasureName,
        typer.Option(
            "--worst-in",
            help="Compare domains by loss relative to their own best file, or in nats.",
            rich_help_panel=options.DOMAINS_PANEL,
        ),
    ] = MeasureName.RATIO

    def plan(
        self,
        inputs: ModelInputs,
        profiles: Sequence[Path],
        request: Request,
        posed: ProblemOptions,
        settings: Settings,
    ) -> tuple[Plan, ModelInputs]:
        """The plan for all domains, and the inputs to write it from. Raises InvalidInput for fewer than two."""
        if chosen_server(posed.server, settings.server) is None:
            check_libraries()  # now, not after a model was measured
        measure = WorstCaseMeasure[self.worst_in.name]
        with followed() as progress, posed.solver(settings) as solver:
            return pipeline.worst_case_plan(
                inputs, profiles, request, measure, solver, posed.limits, progress=progress, notes=say
            )

    def refuse(self, given: dict[str, bool]) -> None:
        """Raise InvalidInput for each of these options that was given together with --worst-case."""
        faults = [Fault(name, "can't be used together with --worst-case") for name, there in given.items() if there]
        if self.worst_case and faults:
            raise InvalidInput(faults)
