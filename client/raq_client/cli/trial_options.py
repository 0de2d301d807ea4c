"""What `run` does before it writes: tries the plan and its rivals in memory, and takes what is better beyond noise."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from raq_client.cli.console import OUT, progress_bar, say
from raq_client.engine.windows import Text
from raq_client.planning.plan import Plan, Request, Sources, model_table
from raq_client.solver_client.protocol import open_solver
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits

if TYPE_CHECKING:
    from raq_client.refinement.candidates import Comparison

WINDOWS: Final = 12
"""Windows of text that candidates are tried on."""
PANEL: Final = "Trial in memory"


@dataclass(frozen=True)
class TrialOptions:
    """Whether and how long allocations are tried before one is carried out."""

    no_trial: Annotated[
        bool,
        typer.Option("--no-trial", rich_help_panel=PANEL, help="Carry the plan out without trying it against others."),
    ] = False
    trial_minutes: Annotated[
        float,
        typer.Option(
            "--trial-minutes", min=0, rich_help_panel=PANEL, help="Begin no other trial that would end after this."
        ),
    ] = 15.0

    def tried(
        self, plan: Plan, sources: Sources, request: Request, texts: list[Text], library: Path | None, *, as_json: bool
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan, or what was better beyond noise, and what to say of it in the JSON result."""
        reason = self._reason(plan, request, texts)
        if reason is not None:
            say(f"no other allocation was tried: {reason}")
            return plan, {"trial": {"tried": [], "reason": reason}}
        from raq_client.engine import NotFiniteError
        from raq_client.evaluation.in_memory import BrokenByTrialError

        try:
            found = compared(plan, sources, request, texts, library, 60 * self.trial_minutes)
        except (NotFiniteError, BrokenByTrialError):
            raise  # a file that nothing could be said of is not written
        except InvalidInput as error:
            reason = "; ".join(str(fault) for fault in error.faults)
            say(f"no other allocation was tried: {reason}")
            return plan, {"trial": {"tried": [], "reason": reason}}
        best = found.best
        if not as_json:
            OUT.print(trial_table(found))
        if found.broken:
            say(f"not taken, since what the model then predicts is not finite: {', '.join(found.broken)}")
        if found.left_out:
            say(f"not tried for want of time (--trial-minutes {self.trial_minutes:g}): {', '.join(found.left_out)}")
        chosen = replace(plan, problem=best.candidate.problem, outcome=best.candidate.outcome)
        if best is not found.tried[0]:
            say(f"better than the plan beyond noise, and taken in its place: {best.candidate.name}")
        return chosen, {"trial": trial_dict(found)}

    def _reason(self, plan: Plan, request: Request, texts: list[Text]) -> str | None:
        """Why nothing is tried; None if it is."""
        if self.no_trial:
            return "--no-trial"
        if plan.outcome.allocation is None:
            return "there is no allocation"
        if request.loss is not None:
            return f"the losses are those asked for (--loss {request.loss})"
        if not texts:
            return "there is no text; give --text, or --calibration for text that is not checked on"
        return None


def compared(
    plan: Plan, sources: Sources, request: Request, texts: list[Text], library: Path | None, seconds: float
) -> "Comparison":
    """The candidates tried. Raises InvalidInput if the model can't be tried in memory or a text is too short."""
    from raq_client.evaluation.in_memory import Trial
    from raq_client.planning.bench import trial_setup
    from raq_client.refinement.candidates import candidates, compare_candidates

    bench = trial_setup(sources, texts, windows=WINDOWS, library=library)
    limits = Limits(request.seconds)
    with open_solver(request.server) as asker:
        table = model_table(sources, plan.profile)
        found = candidates(plan.problem, plan.outcome, plan.profile, table, asker.solve, limits)
    with Trial(bench) as trial, progress_bar("trying allocations") as report:
        each = trial.prepare()
        if 2 * each > seconds:
            what = f"two allocations would take more than {2 * each:.0f} s, and --trial-minutes allow {seconds:.0f}"
            raise InvalidInput(Fault("trial", what))
        say(f"trying {len(found)} allocations in memory, each {each:.0f} s and the time to quantize (--no-trial: none)")
        return compare_candidates(found, plan.profile, trial, seconds=seconds, progress=report)


def trial_table(found: "Comparison") -> Table:
    """What was tried, the best marked."""
    windows = len(found.tried[0].per_window)
    table = Table(title=f"Tried in memory on {windows} windows", title_justify="left")
    for name in ("allocation", "bytes", "mean KL divergence", "seconds", ""):
        table.add_column(name, justify="left" if name in {"allocation", ""} else "right")
    for one in found.tried:
        taken = "taken" if one is found.best else ""
        level = f"{one.kl:.6f} ± {one.error:.6f}"
        table.add_row(one.candidate.name, f"{one.candidate.size:,}", level, f"{one.seconds:.0f}", taken)
    return table


def trial_dict(found: "Comparison") -> dict[str, Any]:
    """The same as plain data."""
    return {
        "windows": len(found.tried[0].per_window),
        "tried": [
            {
                "name": one.candidate.name,
                "bytes": one.candidate.size,
                "kl": one.kl,
                "kl_error": one.error,
                "seconds": round(one.seconds, 3),
                "taken": one is found.best,
            }
            for one in found.tried
        ],
        "left_out": list(found.left_out),
        "broken": list(found.broken),
    }
