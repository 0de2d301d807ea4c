"""Options and output of the trials that `run` makes in memory between solving and writing."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Group

from raq_client import pipeline
from raq_client.cli.console import OUT, say
from raq_client.cli.follow import followed
from raq_client.engine.windows import Text
from raq_client.planning.model_inputs import ModelInputs
from raq_client.planning.plan import Plan
from raq_client.prompts.texts import read_texts_for
from raq_client.reports.tables import Field, table_of
from raq_client.solver_client.protocol import SolverClient
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits

if TYPE_CHECKING:
    from raq_client.evaluation.in_memory import TrialSetup
    from raq_client.refinement.candidates import Comparison
    from raq_client.refinement.measured_limit import Limited
    from raq_client.refinement.tried import Tried

PANEL: Final = "Trial in memory"


@dataclass(frozen=True, eq=False)
class Untried:
    """A plan before its file is written, the texts to try it on, and the solver that makes plans to compare it with."""

    plan: Plan
    inputs: ModelInputs
    texts: list[Text]
    library: Path | None
    solver: SolverClient
    limits: Limits

    def setup(self, windows: int) -> "TrialSetup":
        """The setup for trying it on this number of windows. Raises InvalidInput if there is no text."""
        return self.inputs.trial_setup(self.texts, windows, library=self.library)


@dataclass(frozen=True)
class TrialOptions:
    """Whether, how long and on which text allocations are tried before a file is written."""

    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            rich_help_panel=PANEL,
            help="Text to try on, not the one to check on.",
            show_default=False,
        ),
    ] = None
    no_trial: Annotated[
        bool,
        typer.Option("--no-trial", rich_help_panel=PANEL, help="Write the plan without trying it against others."),
    ] = False
    trial_minutes: Annotated[
        float,
        typer.Option(
            "--trial-minutes", min=0, rich_help_panel=PANEL, help="Begin no trial that would end after this time."
        ),
    ] = 15.0

    def texts(self, model: Path, library: Path | None) -> list[Text]:
        """The text to try on, chats rendered for `model`."""
        return read_texts_for(model, self.calibration or [], library=library)

    def better(self, untried: Untried, *, as_json: bool) -> tuple[Plan, dict[str, Any]]:
        """The plan after trials, and the parts of the JSON result about them."""
        plan = untried.plan
        if plan.worst_case is not None:
            return plan, {}
        if plan.spec.request.max_loss is not None and not self.no_trial and untried.texts:
            return self._within(untried, as_json=as_json)
        reason = self._reason(untried)
        if reason is None:
            from raq_client.engine import NotFiniteError
            from raq_client.evaluation.in_memory import BrokenByTrialError

            try:
                return self._tried(untried, as_json=as_json)
            except (NotFiniteError, BrokenByTrialError):
                raise  # a file whose plan could not be evaluated is not written
            except InvalidInput as error:
                reason = "; ".join(str(fault) for fault in error.faults)
        say(f"no other allocation was tried: {reason}")
        return plan, {"trial": {"tried": [], "reason": reason}}

    def _tried(self, untried: Untried, *, as_json: bool) -> tuple[Plan, dict[str, Any]]:
        setup = untried.setup(pipeline.TRIAL_WINDOWS)
        with followed() as progress:
            chosen, found = pipeline.try_plan(
                untried.plan,
                untried.inputs,
                setup,
                untried.solver,
                untried.limits,
                seconds=60 * self.trial_minutes,
                progress=progress,
                notes=say,
            )
        if not as_json:
            OUT.print(trial_table(found))
            print_beside(chosen, found.best)
        if found.broken:
            say(f"rejected, because the model's predictions are then not finite: {', '.join(found.broken)}")
        if found.left_out:
            say(f"not tried for lack of time (--trial-minutes {self.trial_minutes:g}): {', '.join(found.left_out)}")
        if found.best is not found.tried[0]:
            say(f"significantly better than the plan, and used instead: {found.best.candidate.name}")
        if found.feedback_gain is not None and found.plain is not None:
            ratio, error = found.feedback_gain
            say(f"error feedback: {ratio:.3f} ± {error:.3f} of the KL divergence of plain rounding at the same bytes")
            if found.plain.beats(found.best):
                say("note: on this text plain rounding is better; use Gram statistics of text that is more like it")
        return chosen, {"trial": trial_dict(found) | beside(chosen, found.best)}

    def _within(self, untried: Untried, *, as_json: bool) -> tuple[Plan, dict[str, Any]]:
        """The smallest plan whose measured KL divergence keeps --max-loss."""
        setup = untried.setup(pipeline.TRIAL_WINDOWS)
        seconds = 60 * self.trial_minutes
        with followed() as progress:
            found = pipeline.plan_within(
                untried.plan, setup, untried.solver, untried.limits, seconds=seconds, progress=progress
            )
        if not as_json:
            OUT.print(limit_table(found))
            print_beside(found.best.plan, found.best.tried)
        if found.reason is not None:
            say(f"note: below {found.most:g} by more than a tenth: {found.reason}")
        return found.best.plan, {"trial": limit_dict(found) | beside(found.best.plan, found.best.tried)}

    def _reason(self, untried: Untried) -> str | None:
        """The reason for trying nothing; None if there is none."""
        plan = untried.plan
        if self.no_trial:
            return "--no-trial"
        if plan.outcome.allocation is None:
            return "there is no allocation"
        if plan.spec.request.loss is not None:
            return f"the losses are those asked for (--loss {plan.spec.request.loss})"
        if not untried.texts:
            return "there is no text; give --text, or --calibration for one that the check does not use"
        return None


def print_beside(plan: Plan, tried: "Tried") -> None:
    """Whether the trial's KL divergence lies in the interval that was predicted of the plan, if there is one."""
    from raq_client.reports.predicted import beside_measured_text

    text = None if plan.predicted is None else beside_measured_text(plan.predicted, tried.of_file(plan.profile))
    if text is not None:
        OUT.print(text, soft_wrap=True)


def beside(plan: Plan, tried: "Tried") -> dict[str, Any]:
    """The same as plain data for JSON."""
    from raq_client.reports.predicted import beside_measured_dict

    return {"predicted": beside_measured_dict(plan.predicted, tried.of_file(plan.profile))}


def trial_table(found: "Comparison") -> Group:
    """A table of the tried allocations, with the best one marked."""
    fields = (
        Field("allocation", read=lambda one: one.candidate.name),
        Field("bytes", figures=True, read=lambda one: f"{one.candidate.size:,}"),
        Field("mean KL divergence", figures=True, read=lambda one: f"{one.kl:.6f} ± {one.error:.6f}"),
        Field("seconds", figures=True, spare=1, read=lambda one: f"{one.seconds:.0f}"),
        Field("", read=lambda one: "taken" if one is found.best else ""),
    )
    windows = len(found.tried[0].per_window)
    return Group(f"Tried in memory on {windows} windows", table_of(found.tried, fields))


def limit_table(found: "Limited") -> Group:
    """A table of the sizes that were tried for a limit on the loss, with the one taken marked."""
    fields = (
        Field("predicted loss", figures=True, read=lambda one: f"{one.plan.outcome.unwrap()[1].loss:.6f}"),
        Field("bytes", figures=True, read=lambda one: f"{one.tried.candidate.size:,}"),
        Field("mean KL divergence", figures=True, read=lambda one: f"{one.kl:.6f} ± {one.tried.error:.6f}"),
        Field("seconds", figures=True, spare=1, read=lambda one: f"{one.tried.seconds:.0f}"),
        Field("", read=lambda one: "taken" if one is found.best else ""),
    )
    windows = len(found.best.tried.per_window)
    title = f"Tried in memory on {windows} windows, for a KL divergence of at most {found.most:g}"
    return Group(title, table_of(found.attempts, fields))


def limit_dict(found: "Limited") -> dict[str, Any]:
    """The sizes that were tried for a limit as plain data for JSON."""
    return {
        "windows": len(found.best.tried.per_window),
        "max_loss": found.most,
        "reason": found.reason,
        "tried": [
            {
                "predicted": one.plan.outcome.unwrap()[1].loss,
                "bytes": one.tried.candidate.size,
                "kl": one.kl,
                "kl_error": one.tried.error,
                "seconds": round(one.tried.seconds, 3),
                "taken": one is found.best,
            }
            for one in found.attempts
        ],
    }


def trial_dict(found: "Comparison") -> dict[str, Any]:
    """The tried allocations as plain data for JSON."""
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
        "feedback_gain": None if found.feedback_gain is None else list(found.feedback_gain),
        "left_out": list(found.left_out),
        "broken": list(found.broken),
    }
