"""The options of a worst case over domains, and its plan behind a progress bar."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from raq_client.cli.console import progress_bar, say
from raq_client.planning.plan import Plan, Request, Sources, model_table, obtain_profile, widened
from raq_client.planning.worst_case_plan import domains_of, make_domain_plan
from raq_solver.errors import Fault, InvalidInput
from raq_solver.questions.worst_case import Measure

_PANEL: Final = "Several domains"
SECONDS: Final = 60.0
"""Most time of the search, unless --seconds says otherwise: the last thousandth may take hours."""


class MeasureName(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """What is compared between domains."""

    RATIO = "ratio"
    NATS = "nats"


@dataclass(frozen=True)
class WorstCaseOptions:
    """Whether each importance file is a domain by itself, of which the worst is to lose least."""

    worst_case: Annotated[
        bool,
        typer.Option(
            "--worst-case",
            help="Each --imatrix (or --profile) is a domain; make the worst of them as good as can be.",
            rich_help_panel=_PANEL,
        ),
    ] = False
    worst_in: Annotated[
        MeasureName,
        typer.Option(
            "--worst-in",
            help="Compare domains by loss over that of a file of their own, or in nats.",
            rich_help_panel=_PANEL,
        ),
    ] = MeasureName.RATIO

    def plan(self, sources: Sources, profiles: Sequence[Path], request: Request) -> Plan:
        """The plan for all domains. Raises InvalidInput for fewer than two."""
        each = {name: widened(one, request.around) for name, one in domains_of(sources, profiles).items()}
        measured = [(name, obtain_profile(one, progress_bar, say)) for name, one in each.items()]
        seconds = SECONDS if request.seconds is None else request.seconds
        table = model_table(next(iter(each.values())), measured[0][1])
        measure = Measure[self.worst_in.name]
        return make_domain_plan(measured, replace(request, seconds=seconds), measure, table)

    def refuse(self, given: dict[str, bool]) -> None:
        """Raises InvalidInput for each of these options that was given beside --worst-case."""
        faults = [Fault(name, "can't be had together with --worst-case") for name, there in given.items() if there]
        if self.worst_case and faults:
            raise InvalidInput(faults)
