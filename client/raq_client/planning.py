"""From what the user asked for to a plan: facts measured or loaded, losses predicted, the problem solved."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

from raq_client.imatrix import Importance
from raq_client.model_file import ModelFile, open_model
from raq_client.quantize import Effort
from raq_client.selection import Demands
from raq_client.solving import solver_at
from raq_solver.budget import Budget, capacity_bytes, parse_budget
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.loss_models import default_loss_model, loss_model
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType, quant_type

DEFAULT_TYPES: Final = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
"""Quant types looked at when none are named; where their blocks do not fit a row, llama.cpp's substitutes."""

Bars = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Makes a progress bar with a title; entering it gives the function to report to."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the facts of a model come from: a saved profile, or the model and its importance file."""

    model: Path | None = None
    imatrix: Path | None = None
    profile: Path | None = None
    types: tuple[str, ...] = ()
    effort: Effort = "fast"
    threads: int = 0
    cached: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """What to solve."""

    budget: str
    loss: str | None = None
    demands: Demands = field(default_factory=Demands)
    server: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A solved problem and what it was made from."""

    profile: Profile
    budget: Budget
    problem: Problem
    outcome: Outcome

    @property
    def table(self) -> LossTable:
        """The loss table of the problem."""
        return self.problem.table


def obtain_profile(sources: Sources, bars: Bars) -> Profile:
    """Load the saved profile, or measure the model (answered from the cache when nothing changed)."""
    if sources.profile is not None:
        from raq_client.profile_file import load_profile

        return load_profile(sources.profile)
    if sources.model is None:
        what = "nothing to solve for: name a model (--model), a saved profile (--profile), or either in raq.toml"
        raise InvalidInput(Fault("", what))
    from raq_client.measure import measure_profile

    model = open_model(sources.model)
    importance = None if sources.imatrix is None else importance_of(model, sources.imatrix)
    with bars("measuring errors") as report:
        return measure_profile(
            model,
            importance,
            chosen_types(sources.types),
            effort=sources.effort,
            threads=sources.threads,
            cache=user_cache_path("raq") / "measurements" if sources.cached else None,
            progress=report,
        )


def importance_of(model: ModelFile, path: Path) -> Importance:
    """The importance in a file, seen to be of this model. Raises InvalidInput with every mismatch."""
    from raq_client.imatrix import check_against
    from raq_client.imatrix_files import read_importance

    importance = read_importance(path)
    check_against(importance, model.tensors, ())
    return importance


def chosen_types(names: Sequence[str]) -> tuple[QuantType, ...]:
    """The quant types of these names, or the default ones for none. All unknown names are faults at once."""
    faults: list[Fault] = []
    found: list[QuantType] = []
    for name in names or DEFAULT_TYPES:
        try:
            found.append(quant_type(name))
        except InvalidInput as error:
            faults += error.faults
    if faults:
        raise InvalidInput(faults)
    return tuple(dict.fromkeys(found))


def chosen_loss(profile: Profile, name: str | None) -> LossTable:
    """The losses that the named model predicts, or the default one for None."""
    model = loss_model(name) if name else default_loss_model(profile)
    return model(profile)


def make_plan(profile: Profile, request: Request) -> Plan:
    """Predict losses, state the problem, solve it."""
    budget = parse_budget(request.budget)
    table = chosen_loss(profile, request.loss)
    constraints = request.demands.constraints(table.tensors)
    problem = Problem(table, capacity_bytes(budget, table.total_weights), constraints)
    with solver_at(request.server) as solve:
        outcome = solve(problem, Limits(request.seconds))
    return Plan(profile, budget, problem, outcome)
