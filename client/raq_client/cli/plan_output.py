"""Print plans as a table, JSON, llama.cpp's overrides or a recipe; exit codes of a solve."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

import typer
from rich.console import RenderableType

from raq_client.cli.console import OUT, fail, print_json, say
from raq_client.planning.plan import LossNotReached, Plan
from raq_client.reports.plan_json import plan_dict
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination
from raq_solver.quant_types import stored_type

EXIT_CODES: Final = {
    Termination.OPTIMAL: 0,
    Termination.FEASIBLE: 3,
    Termination.INFEASIBLE: 4,
    Termination.NO_SOLUTION_FOUND: 3,
}


@contextmanager
def limit_kept() -> Iterator[None]:
    """End the command with the sentence and the exit code where no allocation keeps --max-loss."""
    try:
        yield
    except LossNotReached as error:
        fail("; ".join(str(fault) for fault in error.faults))
        raise typer.Exit(EXIT_CODES[error.termination]) from None


class Format(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """How to print an allocation."""

    TABLE = "table"
    JSON = "json"
    LLAMA_CPP = "llama.cpp"
    RECIPE = "recipe"


def print_plan(plan: Plan, output_format: Format) -> None:
    """Print a plan, or the reason why there is none."""
    from raq_client.reports.base import around_tables
    from raq_client.reports.plan import generous_text, infeasible_text

    weights = plan.table.total_weights
    if output_format is Format.JSON:
        print_json(plan_dict(plan))
    if plan.outcome.allocation is None:
        # Without Q2_K the types were chosen by name, and importance alone would not make smaller ones available.
        chosen = "Q2_K" not in plan.table.quant_types
        known = chosen or plan.spec.profile is None or plan.spec.profile.has_importance
        capacity = plan.problem.capacity_bytes
        fail(infeasible_text(plan.outcome, plan.budget_text, weights, capacity, importance=known))
        return
    if plan.smallest is not None and output_format is not Format.TABLE:  # the table says it itself
        say(f"smallest size with {plan.budget_text}: proven above {plan.smallest.bound_bytes - 1:,} bytes")
    generous = generous_text(plan.outcome, weights)
    if generous:
        say(f"note: {generous}")
    if output_format is Format.TABLE:
        OUT.print(_report(plan), *around_tables(plan), sep="\n")
    elif output_format is Format.LLAMA_CPP:
        print_overrides(plan)
    elif output_format is Format.RECIPE:
        from raq_client.planning.plan_recipe import recipe_of

        OUT.out(recipe_of(plan).as_json(), end="", highlight=False)


def _report(plan: Plan) -> RenderableType:
    from raq_client.reports.plan import plan_report
    from raq_client.reports.worst_case import domain_plan_report

    if plan.worst_case is not None:
        return domain_plan_report(plan)
    return plan_report(plan.outcome, plan.table.source, plan.budget_text, plan.smallest, plan.predicted)


def draw_moves(plan: Plan, path: Path | None) -> None:
    """Draw the moves from the base to `path`, if it is given and there is an allocation."""
    if path is None or plan.outcome.allocation is None:
        return
    if plan.exchange is None or plan.spec.base is None:
        raise InvalidInput(Fault("--plot", "moves are drawn from a base; give --base"))
    from raq_client.reports.plots import exchange_bars, plot_moves

    title = f"from {plan.spec.base.name} to the optimum of {plan.problem.capacity_bytes:,} bytes"
    before, after = plan.spec.base.allocation.types, plan.outcome.allocation.types
    plot_moves(path, title, exchange_bars(plan.exchange), plan.exchange.opening, before, after)
    say(f"drawn: {path}")


def print_overrides(plan: Plan) -> None:
    """Print the lines of a --tensor-type-file that make llama-quantize write these types."""
    from raq_client.recipes.overrides import override_text, overrides_for, pure_base

    allocation, _ = plan.outcome.unwrap()
    types = {tensor: stored_type(allocation.types[tensor.name]) for tensor in plan.profile.tensors}
    architecture = plan.profile.provenance.get("architecture", "")
    OUT.out(override_text(overrides_for(types, architecture)), end="", highlight=False)
    base = pure_base(types, architecture).name
    say(f"use with: llama-quantize --pure --tensor-type-file FILE MODEL.gguf OUT.gguf {base}")
