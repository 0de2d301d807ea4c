"""What `--refine` adds to `run`: the closed loop, with its rounds told."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from raq_client.cli.console import progress_bar, say
from raq_client.engine.texts import read_texts
from raq_client.engine.windows import Text
from raq_client.planning.plan import Plan, Request, Sources
from raq_client.solver_client.protocol import open_solver
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits

WINDOWS = 16
"""Windows of text that each trial is measured on."""


@dataclass(frozen=True)
class RefineOptions:
    """Whether a plan is tried and corrected before it is carried out, and on which text."""

    refine: Annotated[
        int,
        typer.Option(
            "--refine", min=0, help="Most rounds of trying, correcting and solving again; needs --calibration."
        ),
    ] = 0
    calibration: Annotated[
        list[Path] | None,
        typer.Option("--calibration", help="Text to refine on, not the one to check on.", show_default=False),
    ] = None

    def texts(self) -> list[Text]:
        """The text to refine on. Raises InvalidInput where there is none to refine on."""
        if self.refine and not self.calibration:
            what = "needs --calibration: text to try allocations on, not the one to check on"
            raise InvalidInput(Fault("--refine", what))
        return read_texts(self.calibration or [])

    def refined(self, plan: Plan, sources: Sources, request: Request, texts: list[Text], library: Path | None) -> Plan:
        """The plan after the rounds that were asked for; itself without any, or where nothing fits."""
        if not self.refine or plan.outcome.allocation is None:
            return plan
        return refined_plan(plan, sources, request, self.refine, texts, library)


def refined_plan(
    plan: Plan, sources: Sources, request: Request, rounds: int, texts: list[Text], library: Path | None
) -> Plan:
    """The plan after at most so many rounds; never one that measured worse on these texts."""
    from raq_client.evaluation.in_memory import Trial
    from raq_client.planning.bench import trial_setup
    from raq_client.refinement.refine import refine

    bench = trial_setup(sources, texts, windows=WINDOWS, library=library)
    limits = Limits(request.seconds)
    with open_solver(request.server) as asker, Trial(bench) as trial, progress_bar("refining") as report:
        found = refine(plan.problem, plan.profile, asker.solve, trial, rounds=rounds, limits=limits, progress=report)
        outcome = asker.solve(found.problem, limits)
    for each in found.rounds:
        taken = "taken" if each.accepted else "not taken"
        say(f"refining: mean KL divergence {each.kl:.6f}, {taken} ({each.source})")
    return replace(plan, problem=found.problem, outcome=outcome)
