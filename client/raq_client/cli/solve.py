"""`raq-client solve`: the best allocation for a budget."""

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType

from raq_client.cli import options
from raq_client.cli.base_options import BaseOptions, MemoryOptions
from raq_client.cli.console import OUT, print_json, progress_bar, say
from raq_client.cli.constraint_options import ConstraintOptions
from raq_client.cli.groups import AskOptions, SourceOptions
from raq_client.cli.option_groups import spread
from raq_client.cli.plain import print_plain, smallest_for, solve_plain
from raq_client.cli.worst_case_options import WorstCaseOptions
from raq_client.cli.written import check_written
from raq_client.files.settings import read_settings
from raq_client.planning.plan import (
    Plan,
    Request,
    Sources,
    make_plan,
    missing_facts,
    model_table,
    obtain_profile,
    widened,
)
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination
from raq_solver.quant_types import stored_type

EXIT_CODES: Final = {
    Termination.OPTIMAL: 0,
    Termination.FEASIBLE: 3,
    Termination.INFEASIBLE: 4,
    Termination.NO_SOLUTION_FOUND: 3,
}


LARGEST_BUDGET: Final = "64"
"""Bits per weight that hold any model."""


class Format(str, Enum):  # noqa: UP042  # Typer shows the values of a str enum
    """How to print an allocation."""

    TABLE = "table"
    JSON = "json"
    LLAMA_CPP = "llama.cpp"
    RECIPE = "recipe"


@spread
def solve(
    called: typer.Context,
    budget: options.Budget = None,
    *,
    source: SourceOptions,
    demand: ConstraintOptions,
    ask: AskOptions,
    output_format: Annotated[Format, typer.Option("--format", help="How to print the allocation.")] = Format.TABLE,
    as_json: options.Json = False,
    problem: Annotated[
        Path | None,
        typer.Option("--problem", help="A plain problem (.npz or .json) instead of a model.", show_default=False),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option("--capacity-bytes", min=0, help="Its capacity in bytes.", show_default=False)
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option("--max-loss", min=0, help="The smallest size that keeps this predicted loss.", show_default=False),
    ] = None,
    around: BaseOptions,
    memory: MemoryOptions,
    worst: WorstCaseOptions,
) -> None:
    """Find the allocation of least predicted loss within a budget, with proof that none is better.

    The model comes from --model or --profile, or from raq.toml in this folder. Patterns are shell globs over tensor
    names. With a --base and no budget the allocation is as large as the base; with --vram the weights get what context
    and overhead leave. Exit code 0: proven optimal; 3: a limit stopped the search; 4: the budget is too small.

    Examples:

    raq-client solve --budget 5.7

    raq-client solve -b 4.2GiB -m model-f16.gguf -i imatrix.gguf --pin 'output.weight=Q6_K' --floor 'blk.0.*=Q4_K'

    raq-client solve -b 5.7 --format llama.cpp > types.txt

    raq-client solve -m model-f16.gguf -i r.gguf --base Q4_K_M --moves ratio --domain r.gguf --general wiki.gguf

    raq-client solve -p model.profile.json --max-loss 0.01

    raq-client solve --problem table.npz --capacity-bytes 5000000000 --json

    raq-client solve -b 5.0 -m model-f16.gguf --worst-case -i reasoning.gguf -i wiki.gguf

    raq-client solve -m model-f16.gguf --vram 24GiB --context 184k --kv q4_0 --overhead 3GiB
    """
    settings = read_settings(Path.cwd())
    check_written(called, {}, {"plot": around.plot}, force=False, also=settings.files())
    worst.refuse({"--problem": problem is not None, "--max-loss": max_loss is not None})
    demands, server = demand.demands(settings), ask.solved_at(settings)
    if problem is not None:
        posed, outcome = solve_plain(problem, capacity, budget, demands, server, ask.seconds)
        print_plain(posed, outcome, as_json=as_json)
        raise typer.Exit(EXIT_CODES[outcome.termination])
    wanted = around.around(settings, memory)
    if max_loss is not None and budget is None:
        budget = LARGEST_BUDGET
    request = Request(budget, ask.loss_model(settings), demands, server, ask.seconds, wanted)
    if worst.worst_case:
        plan = worst.plan(replace(source, profile=None).sources(settings), source.profile or (), request)
    else:
        plan = plan_for(source.sources(settings), request)
    if max_loss is not None and plan.outcome.allocation is not None:
        smallest, outcome = smallest_for(plan.problem, max_loss, request.server, ask.seconds)
        plan = replace(plan, problem=smallest, outcome=outcome)
    print_plan(plan, Format.JSON if as_json else output_format)
    draw_moves(plan, around.plot)
    raise typer.Exit(EXIT_CODES[plan.outcome.termination])


def plan_for(sources: Sources, request: Request) -> Plan:
    """The plan for a model or a saved profile, measured behind a progress bar."""
    profile = obtain_profile(widened(sources, request.around), progress_bar, say)
    plan = make_plan(profile, request, model_table(sources, profile))
    missing = missing_facts(profile)
    if missing is not None and request.loss is None and plan.outcome.allocation is not None:
        say(f"note: {missing}")
    return plan


def plan_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain data for --json."""
    from raq_client.reports.base import around_dict
    from raq_client.reports.plan import outcome_to_dict

    found = outcome_to_dict(plan.outcome, plan.table.source) | around_dict(plan)
    found["quant_types"] = list(plan.table.quant_types)
    found["missing"] = missing_facts(plan.profile)
    if plan.compromise is not None:
        from raq_client.reports.worst_case import domains_dict

        worst = domains_dict(plan.compromise)
        found["worst_case"] = worst
        if plan.outcome.ledger is not None:
            found |= {"loss": worst["worst"], "bound": worst["bound"], "gap": worst["gap"]}
    return found


def print_plan(plan: Plan, output_format: Format) -> None:
    """Print a plan, or say why there is none."""
    from raq_client.reports.base import around_tables
    from raq_client.reports.plan import generous_text, infeasible_text

    weights = plan.table.total_weights
    if output_format is Format.JSON:
        print_json(plan_dict(plan))
    if plan.outcome.allocation is None:
        say(f"raq-client: {infeasible_text(plan.outcome, str(plan.budget), weights, plan.problem.capacity_bytes)}")
        return
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

    if plan.compromise is not None:
        return domain_plan_report(plan)
    return plan_report(plan.outcome, plan.table.source, str(plan.budget))


def draw_moves(plan: Plan, path: Path | None) -> None:
    """Draw the moves from the base, if a picture is asked for and there is an allocation."""
    if path is None or plan.outcome.allocation is None:
        return
    if plan.exchange is None or plan.premises.base is None:
        raise InvalidInput(Fault("--plot", "moves are drawn from a base; give --base"))
    from raq_client.reports.plots import exchange_bars, plot_moves

    title = f"from {plan.premises.base_name} to the optimum of {plan.premises.capacity:,} bytes"
    before, after = plan.premises.base.types, plan.outcome.allocation.types
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
